// Package applets dispatches on argv[0], or on argv[1] when the binary is
// called as attestbox, to the applets that this build contains.
//
// The build tags "guest" and "simdevice" leave out everything that does not
// belong into an image, or into the simulated device; see the list files.
package applets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"attestbox/internal/applet"
)

// All lists the applets of this build in order.
func All() []applet.Applet { return list() }

// Main runs the applet that args name and returns its exit code.
func Main(args []string) int {
	name, rest := "attestbox", []string(nil)
	if len(args) > 0 {
		// A daemon marks itself with a leading @ to survive switch_root.
		name, rest = strings.TrimLeft(filepath.Base(args[0]), "@-"), args[1:]
	}
	a, ok := find(name)
	if !ok {
		name = "attestbox"
		if len(rest) > 0 {
			if a, ok = find(rest[0]); ok {
				name, rest = rest[0], rest[1:]
			}
		}
	}
	if all := All(); !ok && len(all) == 1 {
		// A build of one applet is that applet under any name: the kernel
		// calls /init of simulator images "init".
		a, ok, name = all[0], true, all[0].Name
	}
	env := applet.OSEnv(name)
	run := a.Run
	if !ok {
		run = multicall
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := run(ctx, env, rest)
	applet.Print(env.Stderr, env.Name, err)
	return applet.ExitCode(err)
}

func find(name string) (applet.Applet, bool) {
	for _, a := range All() {
		if a.Name == name {
			return a, true
		}
	}
	return applet.Applet{}, false
}

// multicall is the binary under its own name: the list, -install, -version.
func multicall(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("[-install DIR | -version | APPLET ...]", "attestbox fetch-secret -h")
	install := fs.String("install", "", "make a symbolic link for every applet in `DIR`")
	version := fs.Bool("version", false, "print the version and what the binary was built with")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, applet.ErrHelp) {
			fmt.Fprintln(env.Stdout)
			printList(env.Stdout)
		}
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("there is no applet %q in this build", fs.Arg(0))
	case *version:
		return printVersion(env.Stdout)
	case *install != "":
		return installLinks(*install)
	}
	printList(env.Stdout)
	return nil
}

func printList(w io.Writer) {
	fmt.Fprintln(w, "applets:")
	for _, a := range All() {
		fmt.Fprintf(w, "  %-14s %s\n", a.Name, a.Summary)
	}
}

func printVersion(w io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary carries no build information")
	}
	fmt.Fprintf(w, "attestbox %s %s\n", info.Main.Version, info.GoVersion)
	for _, d := range info.Deps {
		fmt.Fprintf(w, "  %s %s\n", d.Path, d.Version)
	}
	return nil
}

// installLinks makes DIR/<applet> -> the running binary, each replaced
// atomically. Something that is not a symbolic link is left alone.
func installLinks(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return err
	}
	for _, a := range All() {
		link := filepath.Join(dir, a.Name)
		if st, err := os.Lstat(link); err == nil && st.Mode()&os.ModeSymlink == 0 {
			return fmt.Errorf("%q exists and is not a symbolic link", link)
		}
		tmp := link + ".attestbox-new"
		os.Remove(tmp)
		if err := os.Symlink(self, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, link); err != nil {
			os.Remove(tmp)
			return err
		}
	}
	return nil
}
