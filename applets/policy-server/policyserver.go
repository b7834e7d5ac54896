// Package policyserver is the applet `policy-server`: the server with the role certify alone. Glue and flags; the work is in
// internal/server.
package policyserver

import (
	"context"

	"attestbox/internal/applet"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
)

// Applet is `policy-server`.
var Applet = applet.Applet{
	Name:    "policy-server",
	Summary: "certify machines to a security domain by its signed policy",
	Run: func(ctx context.Context, env *applet.Env, args []string) error {
		return servercmd.Main(ctx, env, args, servercmd.ServeOptions{Roles: []string{server.RoleCertify}, Admin: servercmd.DefaultAdmin})
	},
}
