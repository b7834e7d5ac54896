package fetchsecret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
)

// watch replaces the file whenever the secret changes, and then has the program
// run, until it is told to end (nil) or the certificate ends. timeout bounds the
// wait for the first version.
func (o *options) watch(ctx context.Context, env *applet.Env, cfg client.KeysConfig, timeout time.Duration) error {
	// Whoever read our messages may go; that is no reason to stop.
	// Caught, not ignored: -run's program would inherit that.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	defer signal.Stop(pipe)
	wctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := time.AfterFunc(timeout, func() { cancel(errNoFirst) })
	defer first.Stop()
	say := func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	changed := make(chan struct{}, 1) // changes while the program runs are one
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		for range changed {
			if err := o.runProgram(wctx, env); err != nil && wctx.Err() == nil {
				say("%v", err)
			}
		}
	}()
	came := false
	err := untilThere(wctx, say, func() error {
		return client.Watch(wctx, cfg, o.name, func(s *client.Secret) error {
			came = true
			first.Stop()
			if err := applet.CreateSecretFile(o.out, s.Value); err != nil {
				return err
			}
			say("%s version %d is in %q", o.name, s.Version, o.out)
			if o.keys.run != "" {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
			return nil
		})
	}, func() bool { return came })
	close(changed)
	if ctx.Err() != nil {
		cancel(nil) // told to end: so is the program
		<-idle
		return nil
	}
	<-idle
	if errors.Is(context.Cause(wctx), errNoFirst) {
		return fmt.Errorf("waiting for the first version: %w", err)
	}
	return err
}

// untilThere calls watch again while the secret does not exist: policy may let
// this machine read a secret that the owner makes later.
func untilThere(ctx context.Context, say func(string, ...any), watch func() error, came func() bool) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := watch()
		if c, _ := code.Of(err); c != code.SecretUnknown || came() || ctx.Err() != nil {
			return err
		}
		if pause == firstPause {
			say("%v; waiting for it", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// Pauses between questions for a secret that does not exist yet.
const (
	firstPause = time.Second
	maxPause   = 5 * time.Second
)

var errNoFirst = errors.New("no version came in time")

// runProgram runs -run's program, without a shell, with its output on stderr.
func (o *options) runProgram(ctx context.Context, env *applet.Env) error {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.keys.run, o.keys.args...)
	cmd.Stdout, cmd.Stderr = env.Stderr, env.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = runGrace
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %q: %w", o.keys.run, err)
	}
	return nil
}
