package main

import (
	"context"
	"errors"

	"attestbox/internal/applet"
)

func runInspect(_ context.Context, env *applet.Env, args []string) error {
	return errors.New("in work")
}
