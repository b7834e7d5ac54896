// Package wire is the attested launch protocol as bytes: every message, limit,
// code and domain string. It neither dials nor decides.
package wire
