package server

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"attestbox/internal/code"
)

// Metrics counts what a server does, in Prometheus' text format (version
// 0.0.4). Its labels come from closed sets, so that no peer can make series: the
// protocols, the decisions, the codes of package code, the domains configured.
// A nil *Metrics counts nothing.
type Metrics struct {
	mu         sync.Mutex
	started    time.Time
	conns      uint64
	turned     uint64
	handshakes uint64 // failed
	decisions  map[decisionKey]uint64
	seconds    map[string]*histogram // by protocol
	memberNow  int
	watchNow   int
	reloads    map[reloadKey]uint64
}

type decisionKey struct {
	protocol, decision string
	code               code.Code
}

type reloadKey struct {
	domain string
	ok     bool
}

// bounds of the histogram, in seconds.
var bounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

type histogram struct {
	counts [14]uint64 // one for each bound, and above
	sum    float64
	n      uint64
}

// NewMetrics starts counting.
func NewMetrics(now time.Time) *Metrics {
	return &Metrics{started: now, decisions: map[decisionKey]uint64{}, seconds: map[string]*histogram{}, reloads: map[reloadKey]uint64{}}
}

func (m *Metrics) with(f func()) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *Metrics) connection()      { m.with(func() { m.conns++ }) }
func (m *Metrics) turnedAway()      { m.with(func() { m.turned++ }) }
func (m *Metrics) handshakeFailed() { m.with(func() { m.handshakes++ }) }
func (m *Metrics) members(n int)    { m.with(func() { m.memberNow += n }) }
func (m *Metrics) watching(n int)   { m.with(func() { m.watchNow += n }) }

func (m *Metrics) reloaded(domain string, ok bool) {
	m.with(func() { m.reloads[reloadKey{domain, ok}]++ })
}

func (m *Metrics) decided(d *Decision, took time.Duration) {
	m.with(func() {
		c := d.Code
		if _, known := code.Meaning(c); !known && c != "" {
			c = "other"
		}
		p := d.Protocol
		if p == "" {
			p = RoleLaunch
		}
		m.decisions[decisionKey{p, d.Decision, c}]++
		h := m.seconds[p]
		if h == nil {
			h = &histogram{}
			m.seconds[p] = h
		}
		s := took.Seconds()
		i, _ := slices.BinarySearch(bounds, s)
		h.counts[i]++
		h.sum += s
		h.n++
	})
}

// Write writes all of it.
func (m *Metrics) Write(w io.Writer, s *Server) error {
	e := &expo{w: w}
	m.with(func() {
		e.one("attestbox_start_time_seconds", "gauge", "When the server started, Unix time.", m.started.Unix())
		e.one("attestbox_connections_total", "counter", "Connections accepted.", m.conns)
		e.one("attestbox_connections_turned_away_total", "counter", "Connections closed before TLS by a limit.", m.turned)
		e.one("attestbox_handshakes_failed_total", "counter", "TLS handshakes that failed.", m.handshakes)
		e.one("attestbox_members", "gauge", "Members connected to keys.", m.memberNow)
		e.one("attestbox_watches", "gauge", "Watches of secrets.", m.watchNow)
		e.head("attestbox_decisions_total", "counter", "Decisions by protocol, outcome and code.")
		keys := slices.SortedFunc(maps.Keys(m.decisions), func(a, b decisionKey) int {
			x, y := a.protocol+" "+a.decision+" "+string(a.code), b.protocol+" "+b.decision+" "+string(b.code)
			if x < y {
				return -1
			}
			return 1
		})
		for _, k := range keys {
			e.line("attestbox_decisions_total{protocol=%q,decision=%q,code=%q} %d", k.protocol, k.decision, string(k.code), m.decisions[k])
		}
		e.head("attestbox_decision_seconds", "histogram", "Time from accepting a connection, or reading a request of keys, to the decision.")
		for _, p := range slices.Sorted(maps.Keys(m.seconds)) {
			h, sum := m.seconds[p], uint64(0)
			for i, b := range bounds {
				sum += h.counts[i]
				e.line("attestbox_decision_seconds_bucket{protocol=%q,le=\"%g\"} %d", p, b, sum)
			}
			e.line("attestbox_decision_seconds_bucket{protocol=%q,le=\"+Inf\"} %d", p, h.n)
			e.line("attestbox_decision_seconds_sum{protocol=%q} %g", p, h.sum)
			e.line("attestbox_decision_seconds_count{protocol=%q} %d", p, h.n)
		}
		e.head("attestbox_policy_reloads_total", "counter", "Times that a policy file was read, by result.")
		for k, n := range m.reloads {
			e.line("attestbox_policy_reloads_total{domain=%q,ok=\"%t\"} %d", k.domain, k.ok, n)
		}
	})
	if s != nil {
		e.head("attestbox_policy_version", "gauge", "Version of the policy in force.")
		for _, d := range s.Domains {
			e.line("attestbox_policy_version{domain=%q} %d", d.name, d.Version())
		}
		if s.Audit != nil {
			e.one("attestbox_audit_lines", "counter", "Lines in the audit log.", s.Audit.Head().Seq)
		}
		e.head("attestbox_chains_cached", "gauge", "Verified VEK chains remembered.")
		for _, d := range s.Domains {
			e.line("attestbox_chains_cached{domain=%q} %d", d.name, d.prover.cache.Len())
		}
	}
	return e.err
}

// expo writes Prometheus' text format.
type expo struct {
	w   io.Writer
	err error
}

func (e *expo) line(format string, a ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format+"\n", a...)
	}
}

func (e *expo) head(name, kind, help string) {
	e.line("# HELP %s %s", name, help)
	e.line("# TYPE %s %s", name, kind)
}

func (e *expo) one(name, kind, help string, v any) {
	e.head(name, kind, help)
	e.line("%s %d", name, v)
}
