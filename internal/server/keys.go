package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// member is one connection of an admitted member.
type member struct {
	x   *exchange
	dom *Domain
	id  *admission.Identity
	m   claim.Launched
}

// maxNames bounds a list's names, in bytes of JSON, so that it fits a frame.
const maxNames = wire.MaxFrame - 4<<10

// keys serves one member: requests in order until it closes, is silent for too
// long, or is a member no more. leave gives its place among the strangers back.
func (s *Server) keys(ctx context.Context, x *exchange, leave func()) {
	cs := x.conn.ConnectionState()
	dom := s.domain(cs.ServerName)
	if dom == nil || dom.secrets == nil {
		return // the handshake saw to it
	}
	id, err := dom.greeting().IdentityOf(&cs, s.Now())
	if err != nil {
		s.Log.Info("member refused", "exchange", x.id.String(), "peer", x.peer, "error", err)
		return
	}
	mem := &member{x: x, dom: dom, id: id, m: memberOf(id)}
	who := dom.name + " " + hex.EncodeToString(id.Instance[:])
	select {
	case s.kept <- struct{}{}:
	default:
		s.turnAway(x.peer, "all places of members are taken")
		return
	}
	defer func() { <-s.kept }()
	left, ok := s.members.enter(who, s.Limits.KeyConnsBy, time.Now())
	if !ok {
		s.turnAway(x.peer, "this member connects too often")
		return
	}
	defer left()
	leave()
	s.Metrics.members(1)
	defer s.Metrics.members(-1)
	defer context.AfterFunc(s.stopping, func() { x.conn.SetReadDeadline(time.Now()) })()
	for {
		x.conn.SetDeadline(time.Now().Add(min(s.Timeouts.KeysIdle, max(0, id.NotAfter.Sub(s.Now())))))
		if s.stopping.Err() != nil {
			return
		}
		req, err := wire.Expect[*wire.KeyRequest](x.conn)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.Log.Info("member left", "exchange", x.id.String(), "peer", x.peer, "error", err)
			}
			return
		}
		rand.Read(x.id[:]) // each request has its own name in the logs
		x.started = time.Now()
		if !s.members.take(who, time.Now()) {
			if !s.reply(mem, &wire.KeyReply{Code: code.VerifierBusy}) {
				return
			}
			continue
		}
		if req.Op == wire.OpWatch {
			s.watch(ctx, mem, req)
			return
		}
		r := s.request(ctx, mem, req)
		sent := s.reply(mem, r)
		clear(r.Value)
		clear(req.Value)
		if !sent || r.Code == code.AdmissionValidity || r.Code == code.AdmissionRevoked || r.Code == code.AdmissionPolicyVersion {
			return
		}
	}
}

// reply writes an answer under its own deadline: a client that does not read
// holds up nobody but itself.
func (s *Server) reply(mem *member, r *wire.KeyReply) bool {
	r.Exchange, r.Time, r.MinPolicyVersion = mem.x.id, s.Now().Unix(), mem.dom.current.Load().floor
	mem.x.conn.SetWriteDeadline(time.Now().Add(s.Timeouts.KeysWrite))
	return s.answer(mem.x, r)
}

// request decides and does one request. The decision is on record before
// anything is given or changed.
func (s *Server) request(ctx context.Context, mem *member, req *wire.KeyRequest) *wire.KeyReply {
	d := mem.decision(req)
	serial, err := mem.allowed(req, s.Now())
	if err == nil {
		d.Decision, d.Claim = Served, serial
		err = s.record(mem.x, d)
	}
	var r *wire.KeyReply
	if err == nil {
		r, err = mem.do(ctx, req, s.Now())
	}
	if err == nil {
		return r
	}
	c, known := code.Of(err)
	if !known {
		s.Log.Error("request failed", "exchange", mem.x.id.String(), "error", err)
		c = code.VerifierBusy
	}
	d.Decision, d.Code, d.Sent, d.Reason = Refused, c, c, err.Error()
	s.record(mem.x, d)
	return &wire.KeyReply{Code: c}
}

func (mem *member) decision(req *wire.KeyRequest) *Decision {
	return &Decision{
		Exchange: mem.x.id.String(), Protocol: mem.x.protocol, Peer: mem.x.peer, Domain: mem.dom.name, Policy: mem.dom.Version(),
		ID: hex.EncodeToString(mem.id.Instance[:]), Measurement: hex.EncodeToString(mem.id.Measurement), Serial: fmt.Sprintf("%x", mem.id.Serial),
		Op: req.Op, Secret: req.Name, Version: req.Version,
	}
}

// stillMember asks the policy in force whether the admission counts now.
func (mem *member) stillMember(now time.Time) error {
	cur := mem.dom.current.Load()
	switch {
	case now.After(mem.id.NotAfter):
		return code.Wrap(code.AdmissionValidity, admission.ErrValidity)
	case mem.id.PolicyVersion < cur.floor:
		return code.Wrap(code.AdmissionPolicyVersion, admission.ErrPolicyVersion)
	case cur.revoked(mem.id):
		return code.Wrap(code.AdmissionRevoked, admission.ErrRevoked)
	}
	// Whoever has the key of a former issuer can write any policy version.
	if _, ok := cur.auth.IssuerOf(mem.id.Issuer, now); !ok {
		return code.Wrap(code.AdmissionRevoked, fmt.Errorf("%w: no claim in force trusts its issuer %x for certification", admission.ErrRevoked, mem.id.Issuer))
	}
	return nil
}

// allowed asks the policy in force about one request, and names the claim that
// allows it.
func (mem *member) allowed(req *wire.KeyRequest, now time.Time) (uint64, error) {
	if err := mem.stillMember(now); err != nil {
		return 0, err
	}
	auth := mem.dom.current.Load().auth
	var serial uint64
	ok := false
	switch req.Op {
	case wire.OpGet, wire.OpWatch:
		serial, ok = auth.MayRead(mem.m, req.Name, now)
	case wire.OpPut, wire.OpRotate, wire.OpDelete:
		serial, ok = auth.MayWrite(mem.m, req.Name, now)
	case wire.OpList, wire.OpRewrap: // decided name by name, and by the escrow copy
		serial, ok = auth.Trusted(mem.m, now)
	}
	if !ok {
		return 0, code.Wrap(code.SecretRefused, fmt.Errorf("no claim lets %s %s %q", mem.m.Measurement, req.Op, req.Name))
	}
	return serial, nil
}

// do does what was allowed. A secret that does not exist is only told to those
// who may read or write it.
func (mem *member) do(ctx context.Context, req *wire.KeyRequest, now time.Time) (*wire.KeyReply, error) {
	k := mem.dom.secrets
	r := &wire.KeyReply{Name: req.Name}
	entry := func(e cryptstore.Entry, err error) (*wire.KeyReply, error) {
		r.Version, r.Kind = uint64(e.Version), e.Type.String()
		return r, err
	}
	switch req.Op {
	case wire.OpGet, wire.OpWatch:
		v, e, err := k.get(ctx, req.Name, req.Version)
		if err != nil {
			return nil, err
		}
		defer v.Zero()
		r.Value = append([]byte(nil), v.Bytes()...) // the caller clears it
		return entry(e, nil)
	case wire.OpPut:
		v := secret.Copy(req.Value)
		defer v.Zero()
		return entry(k.put(ctx, req.Name, req.Kind, req.Version, v))
	case wire.OpRotate:
		return entry(k.rotate(ctx, req.Name, req.Kind))
	case wire.OpDelete:
		r.Version = req.Version
		return r, k.remove(ctx, req.Name, req.Version)
	case wire.OpList:
		return mem.list(ctx, req, now)
	case wire.OpRewrap:
		return mem.rewrap(ctx, req, now)
	}
	return nil, invalid("operation %.16q", req.Op)
}

func (mem *member) list(ctx context.Context, req *wire.KeyRequest, now time.Time) (*wire.KeyReply, error) {
	auth := mem.dom.current.Load().auth
	names, err := mem.dom.secrets.latest(ctx, func(name string) bool {
		if req.Name != "" && !(claim.Secret{Pattern: req.Name}).Matches(name) {
			return false
		}
		_, read := auth.MayRead(mem.m, name, now)
		_, write := auth.MayWrite(mem.m, name, now)
		return read || write
	})
	if err != nil {
		return nil, err
	}
	if b, err := json.Marshal(names); err != nil || len(b) > maxNames {
		return nil, invalid("%d names are more than one answer holds: ask with a narrower pattern", len(names))
	}
	return &wire.KeyReply{Name: req.Name, Names: names}, nil
}

// watch answers at once and whenever the secret changes, until the client
// closes, its admission ends, or policy allows it no longer.
func (s *Server) watch(ctx context.Context, mem *member, req *wire.KeyRequest) {
	w := mem.dom.secrets.watch(req.Name)
	defer mem.dom.secrets.unwatch(req.Name, w)
	s.Metrics.watching(1)
	defer s.Metrics.watching(-1)
	// The client says nothing more: whatever it sends, and its end, ends the
	// watch. The deadline is the certificate's.
	gone := make(chan struct{})
	mem.x.conn.SetReadDeadline(time.Time{})
	go func() {
		mem.x.conn.Read(make([]byte, 1))
		close(gone)
	}()
	defer func() { mem.x.conn.NetConn().Close(); <-gone }()
	// Claims begin and end without a notice.
	again := time.NewTicker(s.Timeouts.watchCheck())
	defer again.Stop()
	ends := time.NewTimer(max(0, mem.id.NotAfter.Sub(s.Now())))
	defer ends.Stop()
	var last uint64
	for {
		policy := mem.dom.watchPolicy() // before asking, so that no change is missed
		if !s.deliver(ctx, mem, req, &last) {
			return
		}
		select {
		case <-w.notice:
		case <-policy:
		case <-again.C:
		case <-ends.C:
			rand.Read(mem.x.id[:])
			s.reply(mem, &wire.KeyReply{Code: code.AdmissionValidity})
			return
		case <-gone:
			return
		case <-s.stopping.Done():
			return
		}
	}
}

func (t Timeouts) watchCheck() time.Duration { return min(time.Minute, t.KeysIdle) }

// deliver sends the latest version if it is another than last; false ends the
// watch.
func (s *Server) deliver(ctx context.Context, mem *member, req *wire.KeyRequest, last *uint64) bool {
	now := s.Now()
	if _, err := mem.allowed(req, now); err == nil && *last != 0 {
		if e, err := mem.dom.secrets.entry(ctx, req.Name, req.Version); err == nil && uint64(e.Version) == *last {
			return true // nothing new
		}
	}
	rand.Read(mem.x.id[:])
	mem.x.started = time.Now()
	r := s.request(ctx, mem, req)
	defer clear(r.Value)
	*last = r.Version
	return s.reply(mem, r) && r.Code == ""
}
