package initramfs

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
)

// reaper is the runner of PID 1: it waits for every child, its own programs
// and the orphans that the kernel hands to it. Programs are started with the
// plain fork and exec of package syscall, since package os would wait for them
// by itself.
type reaper struct {
	mu       sync.Mutex
	children map[int]chan ended
	wake     chan struct{} // a child may exist
}

func newReaper() *reaper {
	r := &reaper{children: map[int]chan ended{}, wake: make(chan struct{}, 1)}
	go r.loop()
	return r
}

// loop reaps for ever.
func (r *reaper) loop() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			// No child at all. Orphans come only from children, so the next
			// start is soon enough.
			<-r.wake
			continue
		case err != nil:
			time.Sleep(time.Second) // not a documented error of wait4
			continue
		}
		// A child that ended before start had noted it: start holds mu.
		r.mu.Lock()
		ch := r.children[pid]
		delete(r.children, pid)
		r.mu.Unlock()
		if ch == nil {
			continue // an orphan
		}
		e := ended{status: status.ExitStatus()}
		if status.Signaled() {
			e = ended{status: -1, signal: status.Signal()}
		}
		ch <- e
	}
}

// start starts a program in a session of its own, with the console as its
// output, no input and a clean environment.
func (r *reaper) start(p *config.Program) (int, <-chan ended, error) {
	uid, gid, err := p.IDs()
	if err != nil {
		return 0, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   programEnv(p),
		Files: []uintptr{null.Fd(), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if uid != 0 || gid != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{}}
	}
	return r.fork(p.Argv, attr)
}

func (r *reaper) fork(argv []string, attr *syscall.ProcAttr) (int, <-chan ended, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan ended, 1)
	r.children[pid] = ch
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return pid, ch, nil
}

func (r *reaper) signal(pid int, s unix.Signal) { _ = unix.Kill(-pid, s) }

// killRest ends every process that is left: forked daemons and orphans.
func (r *reaper) killRest() {
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL)
	}
}

// programEnv is a program's environment. ATTESTBOX_SECRETS names the folder of
// its secrets, not the secrets.
func programEnv(p *config.Program) []string {
	env := []string{"HOME=/", "TERM=linux", "PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
	if len(p.Secrets) > 0 {
		env = append(env, "ATTESTBOX_SECRETS="+programsDir+"/"+p.Name)
	}
	return env
}
