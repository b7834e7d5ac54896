// Package keyserver is the applet `key-server`: the server with the role keys alone. Glue and flags; the work is in
// internal/server.
package keyserver

import (
	"context"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
)

// Applet is `key-server`.
var Applet = applet.Applet{
	Name:    "key-server",
	Summary: "give the domain's secrets to those whom policy lets read them",
	Run: func(ctx context.Context, env *applet.Env, args []string) error {
		return servercmd.Main(ctx, env, args, servercmd.ServeOptions{Roles: []string{server.RoleKeys}, Admin: servercmd.DefaultAdmin})
	},
}
