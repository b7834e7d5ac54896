package verifier

import (
	"context"

	"attestbox/internal/applet"
	"attestbox/internal/server"
)

func newSource(st *server.State) server.EndorsementSource { return nil }

func runAddEndorsement(ctx context.Context, env *applet.Env, args []string) error {
	return applet.Usage("not yet")
}
