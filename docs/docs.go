// Package docs embeds the pages that the binary prints.
package docs

import "embed"

// Errors holds errors/<code>.md: cause, what to check, the command to run.
//
//go:embed errors/*.md
var Errors embed.FS
