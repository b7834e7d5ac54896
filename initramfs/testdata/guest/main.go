// Guest is the programs that tests start inside a VM: the init of a real root,
// and programs of a Run image. It is called by the name of its first argument,
// or as /sbin/init.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	name := "system"
	if os.Getpid() != 1 && len(os.Args) > 1 {
		name = os.Args[1]
	}
	if os.Args[0] == "/bin/sh" {
		show("shell: here")
		return
	}
	switch name {
	case "system": // the real system's init: tell what was handed over
		show("system: up")
		show("system: args %q env %q", os.Args, os.Environ())
		for _, f := range []string{"/proc/mounts", "/proc/sys/kernel/sysrq", "/run/attestbox/floor"} {
			b, err := os.ReadFile(f)
			for line := range strings.Lines(string(b)) {
				show("system: %s: %s", f, strings.TrimSpace(line))
			}
			if err != nil {
				show("system: %v", err)
			}
		}
		for _, f := range []string{"/", "/run/attestbox/secrets", "/run/attestbox/secrets/token", "/dev/vda", "/run/attestbox/secrets/none"} {
			st, err := os.Stat(f)
			if err != nil {
				show("system: stat: %v", err)
				continue
			}
			show("system: stat: %s %s", f, st.Mode())
		}
		show("system: done")
		wait()
	case "ids": // who am I, and may I write to the initramfs or read others' secrets
		err := os.WriteFile("/etc/x", nil, 0o600)
		_, err2 := os.ReadFile("/run/attestbox/secrets/token")
		show("program: uid %d gid %d groups %v", os.Getuid(), os.Getgid(), groups())
		show("program: write to the initramfs: %v", errors.Is(err, unix.EROFS))
		show("program: read root's secrets: %v", err2)
		b, err := os.ReadFile(os.Getenv("ATTESTBOX_SECRETS") + "/token")
		show("program: own secret: %d bytes, %v", len(b), err)
		show("program: state: %v", os.WriteFile("/state/x", []byte("x"), 0o600))
	case "serve": // run until SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		show("program: serving")
		<-c
		show("program: asked to stop")
	case "stop-init": // once process 1 has reaped the orphan
		b, _ := os.ReadFile("/state/orphan")
		for {
			if _, err := os.Stat("/proc/" + string(b)); err != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		show("program: the orphan was reaped")
		if err := unix.Kill(1, unix.SIGTERM); err != nil {
			show("program: SIGTERM to init: %v", err)
		}
	case "orphan": // leave a grandchild to process 1
		p, err := os.StartProcess("/bin/guest", []string{"guest", "grandchild"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
		if err != nil {
			show("program: %v", err)
			return
		}
		show("program: leaving %d behind: %v", p.Pid, os.WriteFile("/state/orphan", fmt.Append(nil, p.Pid), 0o644))
	case "grandchild":
		time.Sleep(200 * time.Millisecond) // outlive the parent
		show("program: grandchild of process %d ends", os.Getppid())
	case "alive": // and, when told so on the console, turn SysRq on
		go func() {
			f, err := os.OpenFile("/dev/console", os.O_RDONLY|unix.O_NOCTTY, 0)
			if err != nil {
				show("program: %v", err)
				return
			}
			for lines := bufio.NewScanner(f); lines.Scan(); {
				if strings.HasSuffix(lines.Text(), "enable") {
					show("program: SysRq on: %v", os.WriteFile("/proc/sys/kernel/sysrq", []byte("1"), 0))
				}
			}
		}()
		for n := 0; ; n++ {
			show("program: alive %d", n)
			time.Sleep(500 * time.Millisecond)
		}
	case "fail":
		show("program: failing")
		os.Exit(7)
	}
}

func groups() []int { g, _ := os.Getgroups(); return g }

func show(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }

// wait lets the test look at the VM and end it.
func wait() {
	for {
		time.Sleep(time.Hour)
	}
}
