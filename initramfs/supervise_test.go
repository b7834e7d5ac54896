package initramfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
)

// fakeRunner plays processes: each name has a script of lives.
type fakeRunner struct {
	mu     sync.Mutex
	begin  time.Time
	lives  map[string][]life // one per start; the last one repeats
	procs  map[int]*proc
	starts map[string]int
	log    []string
}

type life struct {
	runs   time.Duration // 0: until a signal
	status int
	err    error // of the start
	deaf   bool  // to SIGTERM
}

type proc struct {
	name string
	life life
	end  chan ended
	kill chan unix.Signal
}

func (f *fakeRunner) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf("%v ", time.Since(f.begin))+fmt.Sprintf(format, args...))
}

func (f *fakeRunner) start(p *config.Program) (int, <-chan ended, error) {
	f.mu.Lock()
	lives := f.lives[p.Name]
	l := lives[min(f.starts[p.Name], len(lives)-1)]
	f.starts[p.Name]++
	pid := len(f.procs) + 100
	pr := &proc{p.Name, l, make(chan ended, 1), make(chan unix.Signal, 4)}
	f.procs[pid] = pr
	f.mu.Unlock()
	f.note("start %s", p.Name)
	if l.err != nil {
		return 0, nil, l.err
	}
	go func() {
		var over <-chan time.Time
		if l.runs > 0 {
			over = time.After(l.runs)
		}
		for {
			select {
			case <-over:
				pr.end <- ended{status: l.status}
				return
			case s := <-pr.kill:
				if s == unix.SIGTERM && l.deaf {
					continue
				}
				f.note("%s got %s", p.Name, unix.SignalName(s))
				pr.end <- ended{status: -1, signal: s}
				return
			}
		}
	}()
	return pid, pr.end, nil
}

func (f *fakeRunner) signal(pid int, s unix.Signal) {
	f.mu.Lock()
	p := f.procs[pid]
	f.mu.Unlock()
	p.kill <- s
}

func (f *fakeRunner) killRest() { f.note("kill rest") }

func TestSupervise(t *testing.T) {
	never := func(name string, required, wait bool) config.Program {
		return config.Program{Name: name, Argv: []string{"/x"}, Restart: config.RestartNever, Required: required, Wait: wait}
	}
	with := func(p config.Program, restart string) config.Program { p.Restart = restart; return p }
	for _, tt := range []struct {
		name     string
		programs []config.Program
		lives    map[string][]life
		cancel   time.Duration // when SIGTERM comes; 0: never
		err      string
		log      []string
	}{
		{"all end", []config.Program{never("a", true, true), never("b", true, false)},
			map[string][]life{"a": {{runs: time.Second}}, "b": {{runs: 2 * time.Second}}}, 0, "",
			[]string{"0s start a", "1s start b", "3s kill rest"}},
		{"waited for one fails", []config.Program{never("a", true, true), never("b", true, false)},
			map[string][]life{"a": {{runs: time.Second, status: 3}}}, 0, "required program a: ended with status 3",
			[]string{"0s start a", "1s kill rest"}},
		{"optional waited for one fails", []config.Program{never("a", false, true), never("b", true, false)},
			map[string][]life{"a": {{runs: time.Second, status: 3}}, "b": {{runs: time.Second}}}, 0, "",
			[]string{"0s start a", "1s start b", "2s kill rest"}},
		{"required cannot start", []config.Program{never("b", false, false), never("a", true, false)},
			map[string][]life{"a": {{err: errors.New("not executable")}}, "b": {{}}}, 0, "required program a: starting /x: not executable",
			[]string{"0s start b", "0s start a", "0s b got SIGTERM", "0s kill rest"}},
		{"required fails again and again", []config.Program{with(never("a", true, false), config.RestartOnFailure)},
			map[string][]life{"a": {{runs: time.Second, status: 1}}}, 0, "failed 5 times in a row, at last: ended with status 1",
			[]string{"0s start a", "2s start a", "5s start a", "10s start a", "19s start a", "20s kill rest"}},
		{"a long run is forgiven", []config.Program{with(never("a", true, false), config.RestartOnFailure)},
			map[string][]life{"a": {{runs: time.Second, status: 1}, {runs: time.Second, status: 1}, {runs: time.Hour, status: 1}, {runs: time.Second}}}, 0, "",
			[]string{"0s start a", "2s start a", "5s start a", "1h0m6s start a", "1h0m7s kill rest"}},
		{"optional is restarted for ever", []config.Program{with(never("a", false, false), config.RestartAlways)},
			map[string][]life{"a": {{runs: time.Second, status: 1}}}, 100 * time.Second, "canceled",
			[]string{"0s start a", "2s start a", "5s start a", "10s start a", "19s start a", "36s start a", "1m7s start a", "1m38s start a", "1m40s kill rest"}},
		{"stopped in reverse order, the deaf one killed", []config.Program{never("a", true, false), never("b", true, false), never("c", true, false)},
			map[string][]life{"a": {{}}, "b": {{deaf: true}}, "c": {{}}}, time.Minute, "canceled",
			[]string{"0s start a", "0s start b", "0s start c", "1m0s c got SIGTERM", "1m10s b got SIGKILL", "1m10s a got SIGKILL", "1m10s kill rest"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeRunner{begin: time.Now(), lives: tt.lives, procs: map[int]*proc{}, starts: map[string]int{}}
				s := &supervisor{runner: f, log: &console{w: &strings.Builder{}, uptime: func() time.Duration { return 0 }}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				err := s.run(ctx, tt.programs)
				s.stopAll()
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				if !slices.Equal(f.log, tt.log) {
					t.Errorf("log %q\nwant %q", f.log, tt.log)
				}
			})
		})
	}
}

// A restart that was due in the very moment of the stop does not happen: the
// machine is going down, and the state is read-only by then.
func TestNothingStartsAfterStop(t *testing.T) {
	f := &fakeRunner{begin: time.Now(), lives: map[string][]life{"a": {{}}}, procs: map[int]*proc{}, starts: map[string]int{}}
	s := &supervisor{runner: f, log: &console{w: &strings.Builder{}, uptime: func() time.Duration { return 0 }}}
	p := &config.Program{Name: "a", Argv: []string{"/x"}, Restart: config.RestartAlways}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.once(ended, p, func() {}); err == nil || f.starts["a"] != 0 {
		t.Errorf("started %d times after the end of its context, %v", f.starts["a"], err)
	}
	s.stopAll()
	if _, err := s.once(t.Context(), p, func() {}); err == nil || f.starts["a"] != 0 {
		t.Errorf("started %d times after the stop, %v", f.starts["a"], err)
	}
}
