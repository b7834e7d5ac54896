package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
)

// commands are the subcommands, in the order of their use.
var commands = []applet.Applet{
	{Name: "build", Summary: "pack kernel, modules, guest binary and configuration into an image", Run: runBuild},
	{Name: "inspect", Summary: "list what is in an image and recompute its launch digest", Run: runInspect},
	{Name: "verify", Summary: "build an image again from its inputs and compare", Run: runVerify},
	{Name: "measure", Summary: "compute a launch digest from firmware, kernel, initramfs and command line", Run: runMeasure},
	{Name: "claim", Summary: "print the claims that trust an image, for policy add", Run: runClaim},
	{Name: "id-block", Summary: "sign an image's launch digest for the secure processor: image ID and version", Run: runIDBlock},
	{Name: "launch", Summary: "print the command, or the libvirt domain, that starts an image as it was measured", Run: runLaunch},
	{Name: "bundle", Summary: "sign kernel, initramfs and command line for a stage 1, or verify that", Run: runBundle},
	{Name: "disk", Summary: "write an encrypted root disk from a folder or an archive", Run: runDisk},
}

// mkimage runs the process and gives its exit code.
func mkimage() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	env := applet.OSEnv("mkimage")
	err := dispatch(ctx, env, os.Args[1:])
	applet.Print(env.Stderr, env.Name, err)
	return applet.ExitCode(err)
}

// dispatch runs the subcommand that args name. It sets env.Name to what was
// called, so that errors begin with it.
func dispatch(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) == 0 {
		list(env.Stderr)
		return applet.Usage("no subcommand given")
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		list(env.Stdout)
		return nil
	}
	for _, c := range commands {
		if c.Name == args[0] {
			env.Name = "mkimage " + c.Name
			return c.Run(ctx, env, args[1:])
		}
	}
	return applet.WithHint(applet.Usage("unknown subcommand %q", args[0]), "mkimage -h lists them")
}

func list(w io.Writer) {
	fmt.Fprintf(w, "usage: mkimage SUBCOMMAND [flags]\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-8s %s\n", c.Name, c.Summary)
	}
	fmt.Fprintf(w, "\nmkimage SUBCOMMAND -h shows its flags and an example\n")
}
