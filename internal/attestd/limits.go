package attestd

import (
	"sync"
	"time"
)

// Limits of a server; zero fields take the default.
type Limits struct {
	Connections int // in all; 64
	PerUser     int // connections of one user; 16

	RequestRate, RequestBurst float64 // per user and second; 50, burst 100
	ReportRate, ReportBurst   float64 // reports of the platform per user and second; 2, burst 10

	Idle     time.Duration // wait for a request; 60 s
	Transfer time.Duration // for one request to arrive once begun, or one answer to leave; 5 s
	Report   time.Duration // for the platform, waiting in line included; 20 s
	Shutdown time.Duration // for connections to end; 5 s
}

func (l Limits) withDefaults() Limits {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	num := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	if l.Connections == 0 {
		l.Connections = 64
	}
	if l.PerUser == 0 {
		l.PerUser = 16
	}
	num(&l.RequestRate, 50)
	num(&l.RequestBurst, 100)
	num(&l.ReportRate, 2)
	num(&l.ReportBurst, 10)
	def(&l.Idle, time.Minute)
	def(&l.Transfer, 5*time.Second)
	def(&l.Report, 20*time.Second)
	def(&l.Shutdown, 5*time.Second)
	return l
}

// maxUsers bounds the users that are remembered.
const maxUsers = 1024

// users counts what each user has and does.
type users struct {
	limits Limits
	now    func() time.Time

	mu    sync.Mutex
	conns int
	all   map[uint32]*user
}

type user struct {
	conns             int
	requests, reports bucket
	// turn is held while the user waits for the platform or uses it: a user
	// stands in line once.
	turn chan struct{}
}

// bucket is a token bucket.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	if b.last.IsZero() {
		b.tokens = burst
	} else if d := now.Sub(b.last).Seconds(); d > 0 {
		b.tokens = min(burst, b.tokens+d*rate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func newUsers(l Limits, now func() time.Time) *users {
	return &users{limits: l, now: now, all: map[uint32]*user{}}
}

// enter counts a connection; nil if there are too many.
func (u *users) enter(uid uint32) *user {
	u.mu.Lock()
	defer u.mu.Unlock()
	one := u.all[uid]
	if one == nil {
		if len(u.all) >= maxUsers {
			u.forget()
		}
		if len(u.all) >= maxUsers {
			return nil
		}
		one = &user{turn: make(chan struct{}, 1)}
		u.all[uid] = one
	}
	if u.conns >= u.limits.Connections || one.conns >= u.limits.PerUser {
		return nil
	}
	u.conns++
	one.conns++
	return one
}

// forget drops users without connections whose buckets are full again.
func (u *users) forget() {
	for uid, one := range u.all {
		quiet := u.now().Sub(one.reports.last).Seconds() > u.limits.ReportBurst/u.limits.ReportRate &&
			u.now().Sub(one.requests.last).Seconds() > u.limits.RequestBurst/u.limits.RequestRate
		if one.conns == 0 && quiet {
			delete(u.all, uid)
		}
	}
}

func (u *users) leave(one *user) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns--
	one.conns--
}

func (u *users) mayAsk(one *user) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return one.requests.take(u.now(), u.limits.RequestRate, u.limits.RequestBurst)
}

func (u *users) mayReport(one *user) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return one.reports.take(u.now(), u.limits.ReportRate, u.limits.ReportBurst)
}
