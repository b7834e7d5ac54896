package verifier

import (
	"context"

	"attestbox/internal/applet"
)

func runBackupKey(ctx context.Context, env *applet.Env, args []string) error {
	return applet.Usage("not yet")
}
func runBackup(ctx context.Context, env *applet.Env, args []string) error {
	return applet.Usage("not yet")
}
func runRestore(ctx context.Context, env *applet.Env, args []string) error {
	return applet.Usage("not yet")
}
