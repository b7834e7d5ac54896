// Package server is the applet `server`: one listener for launch, certify and keys, by ALPN. Glue and flags; the work is in
// internal/server.
package server

import (
	"context"

	"attestbox/internal/applet"
	"attestbox/internal/servercmd"
)

// Applet is `server`.
var Applet = applet.Applet{
	Name:    "server",
	Summary: "serve a security domain: launch, certify and keys on one listener",
	Run: func(ctx context.Context, env *applet.Env, args []string) error {
		return servercmd.Main(ctx, env, args, servercmd.ServeOptions{Admin: servercmd.DefaultAdmin})
	},
}
