package kds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxBackoff bounds the wait after failures.
	maxBackoff = time.Hour
	// maxSubjects bounds how many chips the network is being asked for.
	maxSubjects = 4096
	// maxRequests bounds the requests under way at one time.
	maxRequests = 4
)

// fetcher asks the service, once per subject (a chip, or a product's list) and
// interval. A subject's interval never grows: whoever claims somebody else's
// chip with a TCB that does not exist must not lock that chip out. What grows
// is the wait after failures of the service itself.
type fetcher struct {
	conf  *Config
	base  *url.URL
	slots chan struct{}

	mu       sync.Mutex
	subjects map[string]*subject
	failures int       // of the service, in a row
	next     time.Time // no request before, after failures
}

type subject struct {
	busy bool
	next time.Time // no request before
}

func newFetcher(c *Config) (*fetcher, error) {
	base, err := url.Parse(c.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("service %q: %w", c.BaseURL, err)
	}
	loopback := base.Hostname() == "localhost" || net.ParseIP(base.Hostname()).IsLoopback()
	if base.Host == "" || base.Scheme != "https" && !(base.Scheme == "http" && loopback) {
		return nil, fmt.Errorf("service %q: want an https URL", c.BaseURL)
	}
	client := http.Client{}
	if c.Client != nil {
		client = *c.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("the service redirects elsewhere") }
	c.Client = &client
	return &fetcher{conf: c, base: base, slots: make(chan struct{}, maxRequests), subjects: map[string]*subject{}}, nil
}

// get fetches path for a subject: at most max bytes. Errors: ErrNotFound, a
// *LaterError, or ctx's.
func (f *fetcher) get(ctx context.Context, name, path string, max int64) ([]byte, error) {
	if err := f.begin(name); err != nil {
		return nil, err
	}
	b, after, err := f.limited(ctx, path, max)
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		f.end(name, 0, true)
		return b, err
	case ctx.Err() != nil: // the caller's doing, not the service's
		f.end(name, 0, true)
		return nil, ctx.Err()
	}
	return nil, &LaterError{f.end(name, after, false), err}
}

// begin takes the turn of a subject.
func (f *fetcher) begin(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.conf.Now()
	if now.Before(f.next) {
		return &LaterError{f.next.Sub(now), errors.New("the service failed a moment ago")}
	}
	s := f.subjects[name]
	if s == nil {
		if len(f.subjects) >= maxSubjects {
			f.forget(now)
		}
		if len(f.subjects) >= maxSubjects {
			return &LaterError{f.conf.Interval, errors.New("too many chips are being asked for")}
		}
		s = &subject{}
		f.subjects[name] = s
	}
	switch {
	case s.busy:
		return &LaterError{time.Second, errors.New("the service is being asked")}
	case now.Before(s.next):
		return &LaterError{s.next.Sub(now), errors.New("the service was asked a moment ago")}
	}
	s.busy = true
	return nil
}

// end gives the turn back and says when the next one is. after is the least
// wait that a failing service asks for.
func (f *fetcher) end(name string, after time.Duration, works bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, wait := f.conf.Now(), f.conf.Interval
	s := f.subjects[name]
	s.busy, s.next = false, now.Add(wait)
	if works {
		f.failures = 0
		return wait
	}
	for range min(f.failures, 12) {
		wait *= 2
	}
	f.failures++
	wait += rand.N(wait/4 + 1)
	wait = min(max(wait, after), maxBackoff)
	f.next = now.Add(wait)
	return wait
}

// forget drops subjects whose time has come; f.mu is held.
func (f *fetcher) forget(now time.Time) {
	for name, s := range f.subjects {
		if !s.busy && now.After(s.next) {
			delete(f.subjects, name)
		}
	}
}

// limited is one request within the limits of time, size and number.
func (f *fetcher) limited(ctx context.Context, path string, max int64) (b []byte, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.conf.Timeout)
	defer cancel()
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("waiting for a request to the service: %w", ctx.Err())
	}
	target := strings.TrimSuffix(f.base.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("asking the service: %w", err)
	}
	resp, err := f.conf.Client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("asking the service: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, 0, fmt.Errorf("%w: the service has none", ErrNotFound)
	case resp.StatusCode != http.StatusOK:
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			after = min(time.Duration(n)*time.Second, maxBackoff)
		}
		return nil, after, fmt.Errorf("the service answers %d", resp.StatusCode)
	}
	b, err = io.ReadAll(io.LimitReader(resp.Body, max+1))
	if err != nil {
		return nil, 0, fmt.Errorf("reading the service's answer: %w", err)
	}
	if int64(len(b)) > max {
		return nil, 0, fmt.Errorf("the service's answer is larger than %d bytes", max)
	}
	return b, 0, nil
}
