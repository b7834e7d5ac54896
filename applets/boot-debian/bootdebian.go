// Package bootdebian is the applet boot-debian: what the scripts of the Debian
// package run in an initramfs of initramfs-tools, and its hook when one is
// made. See docs/debian.md; the work is done in package initramfs.
package bootdebian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"attestbox/initramfs"
	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/code"
)

// Applet is boot-debian.
var Applet = applet.Applet{
	Name:    "boot-debian",
	Summary: "the stages of an attested boot in Debian's initramfs",
	Run:     run,
}

// The stages. Those of a boot power the machine off when they fail.
const (
	stageCheck    = "check"    // when the initramfs is made: judge the configuration, print its crypttab
	stageEarly    = "early"    // init-top: SysRq off, the command line
	stageTop      = "top"      // local-top: attest, validate the header
	stageKey      = "key"      // keyscript: the key on stdout
	stageClosed   = "closed"   // local-block: the root was not opened
	stageBottom   = "bottom"   // local-bottom ROOT: compare what was mounted, report
	stageDaemon   = "daemon"   // what stageTop leaves behind
	initramfsMark = "/scripts" // no system has it, every initramfs of initramfs-tools
)

func run(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("check | early | top | key | closed | bottom ROOT", "boot-debian check, before update-initramfs -u")
	if err := fs.Parse(args); err != nil {
		return err
	}
	stage, want := fs.Arg(0), 1
	if stage == stageBottom {
		want = 2
	}
	switch stage {
	case stageCheck, stageEarly, stageTop, stageClosed, stageBottom, stageDaemon:
		if fs.NArg() != want {
			return fs.Usage("the stage %q takes %d arguments", stage, want-1)
		}
	case stageKey: // cryptsetup adds crypttab's third field
	default:
		return fs.Usage("unknown stage %q", stage)
	}
	if stage == stageCheck {
		return check(env)
	}
	if _, err := os.Stat(initramfsMark); err != nil {
		return applet.Fail(code.BootStage, errors.New("this stage belongs into an initramfs, and would power this machine off"))
	}
	switch stage {
	case stageEarly:
		initramfs.DebianEarly()
	case stageTop:
		return orOff(top(env))
	case stageDaemon:
		return daemon()
	case stageKey:
		return orOff(key(env))
	case stageClosed:
		return orOff(initramfs.DebianClosed())
	case stageBottom:
		return orOff(initramfs.DebianBottom(fs.Arg(1)))
	}
	return nil
}

// orOff ends the machine with the boot: nothing of Debian's may go on, since
// what it does next with a failure is to ask whoever holds the console.
func orOff(err error) error {
	if err != nil {
		initramfs.DebianFail(code.Wrap(code.BootStage, err))
	}
	return nil
}

// check is the hook's: what the boot will read has to be sound, and the
// crypttab of the initramfs holds our line alone.
func check(env *applet.Env) error {
	b, err := os.ReadFile(config.DebianPath)
	if err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	c, err := config.ParseDebian(b)
	if err != nil {
		return fmt.Errorf("%s: %w", config.DebianPath, err)
	}
	if c.Policy != "" {
		if _, err := os.Stat(c.Policy); err != nil {
			return code.Wrap(code.ConfigBad, err)
		}
	}
	const table = "/etc/crypttab"
	if b, err = os.ReadFile(table); err != nil {
		return code.Wrap(code.ConfigBad, err)
	}
	entry, err := config.ParseCrypttab(b)
	if err != nil {
		want := config.Crypttab{Name: "root", Device: "/dev/vda"}
		return applet.WithHint(fmt.Errorf("%s: %w", table, err), "for example: "+want.Line())
	}
	_, err = io.WriteString(env.Stdout, entry.Line())
	return err
}

// key is all or nothing: cryptsetup ignores the exit status.
func key(env *applet.Env) error {
	k, err := initramfs.DebianKey(env.Getenv("CRYPTTAB_NAME"), env.Getenv("CRYPTTAB_SOURCE"))
	if err != nil {
		return err
	}
	defer k.Zero()
	_, err = env.Stdout.Write(k.Bytes())
	return err
}

const readyLine = "ready\n"

// top starts the daemon and waits until it is ready. If it fails, it powers the
// machine off and says nothing here.
func top(env *applet.Env) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		w.Close()
		return err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"attestbox", "boot-debian", stageDaemon}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/sbin:/bin"}, // nothing of what the kernel's command line put there
		Files: []*os.File{null, os.Stdout, os.Stderr, w},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return fmt.Errorf("starting the process that holds this boot: %w", err)
	}
	defer p.Release()
	said, err := io.ReadAll(io.LimitReader(r, int64(len(readyLine))))
	if err != nil || !bytes.Equal(said, []byte(readyLine)) {
		return errors.New("the process that holds this boot ended")
	}
	return nil
}

// daemon says on descriptor 3 when the keyscript may come.
func daemon() error {
	pipe := os.NewFile(3, "ready pipe")
	initramfs.DebianDaemon(func() error {
		_, err := io.WriteString(pipe, readyLine)
		return errors.Join(err, pipe.Close())
	})
	return nil
}
