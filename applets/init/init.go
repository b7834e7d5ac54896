// Package init is the applet init: PID 1 of an image. See package initramfs
// and docs/init.md.
package init

import (
	"context"
	"os"

	"attestbox/initramfs"
	"attestbox/internal/applet"
)

// Applet is init.
var Applet = applet.Applet{
	Name:    "init",
	Summary: "PID 1 of an image: bring the VM up, get its secrets, start the system",
	Run:     run,
}

func run(_ context.Context, env *applet.Env, args []string) error {
	// The kernel passes PID 1 words of its command line as arguments; they
	// mean nothing here.
	if os.Getpid() == 1 {
		initramfs.Main() // never returns
	}
	fs := env.Flags("", "the kernel starts it as /init; see docs/init.md")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return fs.Usage("init runs as process 1 of an image, and nowhere else")
}
