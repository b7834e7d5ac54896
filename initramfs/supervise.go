package initramfs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
)

// Limits of restarting.
const (
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	// goodRun is how long a program has to run for its failures to be
	// forgotten.
	goodRun = time.Minute
	// maxFailures is how often in a row a required program may fail before it
	// has failed for good. An optional one is restarted for ever.
	maxFailures = 5
	// stopGrace lies between SIGTERM and SIGKILL.
	stopGrace = 10 * time.Second
)

// runner starts processes and says when they end.
type runner interface {
	// start starts p. The channel receives its end, once.
	start(p *config.Program) (pid int, ended <-chan ended, err error)
	// signal signals the process group of pid.
	signal(pid int, s unix.Signal)
	// killRest ends whatever else runs.
	killRest()
}

// ended says how a process ended.
type ended struct {
	status int // exit status; -1 for a signal
	signal unix.Signal
}

func (e ended) failed() bool { return e.status != 0 }

func (e ended) String() string {
	if e.status < 0 {
		return "ended by signal " + unix.SignalName(e.signal)
	}
	return fmt.Sprintf("ended with status %d", e.status)
}

// supervisor runs the programs of a Run image.
type supervisor struct {
	runner runner
	log    *console

	mu      sync.Mutex
	running []*running // in order of start
	stopped bool       // stopAll has begun: nothing is started any more
	wg      sync.WaitGroup
}

type running struct {
	name string
	pid  int
	done chan struct{}
}

// run starts the programs in order. It returns nil when every program has
// ended for good, the first failure of a required one, or ctx's error.
func (s *supervisor) run(ctx context.Context, programs []config.Program) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range programs {
		p := &programs[i]
		started := make(chan struct{})
		finished := make(chan struct{})
		all.Go(func() {
			defer close(finished)
			if err := s.supervise(ctx, p, sync.OnceFunc(func() { close(started) })); err != nil {
				if p.Required {
					cancel(fmt.Errorf("required program %s: %w", p.Name, err))
				} else {
					s.log.step("programs", "optional program %s: %v", p.Name, err)
				}
			}
		})
		next := started
		if p.Wait {
			next = finished
		}
		select {
		case <-next:
		case <-finished:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// supervise runs one program until it has ended for good; an error is a
// failure for good.
func (s *supervisor) supervise(ctx context.Context, p *config.Program, started func()) error {
	backoff, failures := firstBackoff, 0
	for {
		begin := time.Now()
		e, err := s.once(ctx, p, started)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && !e.failed():
			if p.Restart != config.RestartAlways {
				s.log.step("programs", "%s has ended", p.Name)
				return nil
			}
			failures = 0
		default:
			if err == nil {
				err = fmt.Errorf("%s", e)
			}
			if time.Since(begin) >= goodRun {
				failures = 0
			}
			failures++
			if p.Restart == config.RestartNever {
				return err
			}
			if p.Required && failures >= maxFailures {
				return fmt.Errorf("failed %d times in a row, at last: %w", failures, err)
			}
			s.log.step("programs", "%s: %v", p.Name, err)
		}
		if time.Since(begin) >= goodRun {
			backoff = firstBackoff
		}
		s.log.step("programs", "starting %s again in %s", p.Name, backoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once starts p and waits for its end, or for the end of ctx.
func (s *supervisor) once(ctx context.Context, p *config.Program, started func()) (ended, error) {
	// Under the lock from the question whether it may start to the note that it
	// has: stopAll must neither miss it nor be followed by it.
	s.mu.Lock()
	if s.stopped || ctx.Err() != nil {
		s.mu.Unlock()
		return ended{}, context.Canceled
	}
	pid, end, err := s.runner.start(p)
	if err != nil {
		s.mu.Unlock()
		return ended{}, fmt.Errorf("starting %s: %w", p.Argv[0], err)
	}
	r := &running{name: p.Name, pid: pid, done: make(chan struct{})}
	s.running = append(s.running, r)
	s.mu.Unlock()
	s.log.step("programs", "%s started, process %d", p.Name, pid)
	started()
	result := make(chan ended, 1)
	s.wg.Go(func() {
		e := <-end
		s.mu.Lock()
		for i, o := range s.running {
			if o == r {
				s.running = append(s.running[:i], s.running[i+1:]...)
				break
			}
		}
		s.mu.Unlock()
		close(r.done)
		result <- e
	})
	select {
	case e := <-result:
		return e, nil
	case <-ctx.Done():
		return ended{}, ctx.Err()
	}
}

// stopAll stops what still runs, in the reverse order of starting: SIGTERM, a
// grace for all of them together, then SIGKILL.
func (s *supervisor) stopAll() {
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	over := false
	for {
		s.mu.Lock()
		s.stopped = true
		if len(s.running) == 0 {
			s.mu.Unlock()
			break
		}
		r := s.running[len(s.running)-1]
		s.mu.Unlock()
		if !over {
			s.log.step("programs", "stopping %s", r.name)
			s.runner.signal(r.pid, unix.SIGTERM)
			select {
			case <-r.done:
				continue
			case <-grace.C:
				over = true
			}
		}
		s.runner.signal(r.pid, unix.SIGKILL)
		<-r.done
	}
	s.runner.killRest()
}
