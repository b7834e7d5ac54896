package server

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim"
	"attestbox/internal/wire"
)

// up boots an instance: released, opened, acknowledged.
func (w *world) up(g *snpsim.Guest) *wire.Payload {
	w.t.Helper()
	ctx := ctxFor(w.t)
	rel, err := client.Launch(ctx, w.client(g.Platform()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer rel.Close()
	var headers []wire.Hex32
	if len(rel.Payload.Headers) > 0 {
		headers = append(headers, digestOf(w.t, rel.Payload.Headers[0]))
	}
	p := *rel.Payload
	p.DiskKey, p.PreviousDiskKey = secret.Copy(p.DiskKey.Bytes()), secret.Copy(p.PreviousDiskKey.Bytes())
	if _, err := rel.Report(ctx, wire.ResultOpened, "", headers); err != nil {
		w.t.Fatal(err)
	}
	return &p
}

func digestOf(t testing.TB, r wire.HeaderRecord) (h wire.Hex32) {
	t.Helper()
	if err := h.UnmarshalText([]byte(r.Digest)); err != nil {
		t.Fatal(err)
	}
	return h
}

// like is another record of the same disk.
func like(r wire.HeaderRecord) wire.HeaderRecord {
	id := newID()
	r.Digest = id.String()
	return r
}

func (w *world) maintain(g *snpsim.Guest, purpose string) (*client.Maintenance, error) {
	m, err := client.Maintain(ctxFor(w.t), w.client(g.Platform()), purpose)
	if err == nil {
		w.t.Cleanup(m.Close)
	}
	return m, err
}

func (w *world) mustMaintain(g *snpsim.Guest, purpose string) *client.Maintenance {
	w.t.Helper()
	m, err := w.maintain(g, purpose)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) instance(id wire.Hex32) *Instance {
	w.t.Helper()
	i, err := w.state.Instance(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// told checks that a request was refused for good with a code.
func told(t *testing.T, what string, err error, want code.Code) {
	t.Helper()
	if c, _ := code.Of(err); !errors.Is(err, client.ErrRefused) || c != want {
		t.Errorf("%s: %v, want refused with %s", what, err, want)
	}
}

func TestRegisterHeaders(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, _ := w.add(id, Takeover)
	g := w.guest(id, nil)
	w.up(g)
	ctx := ctxFor(t)
	first := inst.Headers[0]
	next := like(first)
	scoped := like(first)
	scoped.Scope, scoped.HdrSize, scoped.AreaOffset, scoped.AreaSize = wire.ScopePrimary, 16<<10, 32<<10, 258048

	m := w.mustMaintain(g, wire.PurposeHeaders)
	if s := m.State(); len(s.Headers) != 1 || !s.HasKey || s.Rotation != "" || len(s.Allowed) != 1 || s.Time == 0 {
		t.Errorf("state %+v", s)
	}
	if err := m.RegisterHeaders(ctx, []wire.HeaderRecord{next, next}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.RegisterHeaders(ctx, []wire.HeaderRecord{scoped, next}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.RegisterHeaders(ctx, nil, []wire.Hex32{digestOf(t, scoped)}); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Headers; !slices.Equal(got, []wire.HeaderRecord{first, next}) {
		t.Errorf("registered %+v", got)
	}
	weaker := func(edit func(*wire.HeaderRecord)) wire.HeaderRecord {
		r := like(first)
		edit(&r)
		return r
	}
	for _, c := range []struct {
		what string
		add  []wire.HeaderRecord
		drop []wire.Hex32
	}{
		{"the record that this boot opened", nil, []wire.Hex32{digestOf(t, first)}},
		{"every record", nil, []wire.Hex32{digestOf(t, first), digestOf(t, next)}},
		{"too many", []wire.HeaderRecord{like(first), like(first), like(first)}, nil},
		{"smaller sectors", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.SectorSize = 512 })}, nil},
		{"other data", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.SegmentOffset, r.Size = 2<<20, 2<<20 })}, nil},
		{"another disk", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.UUID = "1" + r.UUID[1:] })}, nil},
		{"null cipher", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.Cipher = "cipher_null-ecb" })}, nil},
		{"unknown scope", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.Scope = "both" })}, nil},
		{"scope without its place", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.Scope = wire.ScopeSecondary })}, nil},
		{"the same digest with a scope", []wire.HeaderRecord{func() wire.HeaderRecord { r := scoped; r.Digest = first.Digest; return r }()}, nil},
		{"no digest", []wire.HeaderRecord{weaker(func(r *wire.HeaderRecord) { r.Digest = "" })}, nil},
	} {
		m := w.mustMaintain(g, wire.PurposeHeaders)
		told(t, c.what, m.RegisterHeaders(ctx, c.add, c.drop), code.MaintainHeaders)
	}
	if got := w.instance(id).Headers; !slices.Equal(got, []wire.HeaderRecord{first, next}) {
		t.Errorf("after refusals: %+v", got)
	}
	// A later boot that opened the next header may drop the one before.
	g2 := w.guest(id, nil)
	rel, err := client.Launch(ctx, w.client(g2.Platform()))
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if len(rel.Payload.Headers) != 2 {
		t.Errorf("released %d records", len(rel.Payload.Headers))
	}
	if _, err := rel.Report(ctx, wire.ResultOpened, "", []wire.Hex32{digestOf(t, next)}); err != nil {
		t.Fatal(err)
	}
	if err := w.mustMaintain(g2, wire.PurposeHeaders).RegisterHeaders(ctx, nil, []wire.Hex32{digestOf(t, first)}); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).Headers; !slices.Equal(got, []wire.HeaderRecord{next}) {
		t.Errorf("in the end: %+v", got)
	}
}

// An instance whose data has integrity keeps it, whatever a running VM asks.
func TestSuiteIsNeverWeakened(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, _ := w.add(id, Takeover)
	strong := inst.Headers[0]
	strong.Integrity, strong.KeyBytes = "hmac-sha256", 96
	if err := w.state.UpdateInstance(context.Background(), id, func(i *Instance) error {
		i.Headers = []wire.HeaderRecord{strong}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	g := w.guest(id, nil)
	w.up(g)
	bare := like(strong)
	bare.Integrity, bare.KeyBytes = "none", 64
	m := w.mustMaintain(g, wire.PurposeHeaders)
	told(t, "integrity none after hmac", m.RegisterHeaders(ctxFor(t), []wire.HeaderRecord{bare}, nil), code.MaintainHeaders)
}

// maintainBegin sends begin by hand and reads the challenge.
func (w *world) maintainBegin(id wire.Hex32, purpose string) (*talk, *wire.MaintainTranscript) {
	w.t.Helper()
	c := w.dialALPN(wire.ALPNMaintain)
	var err error
	if c.key, err = wire.NewKey(); err != nil {
		w.t.Fatal(err)
	}
	tr := &wire.MaintainTranscript{Version: wire.Version, ID: id, Purpose: purpose, Suite: wire.SuiteID(), Key: c.key.PublicKey().Bytes()}
	cs := c.conn.ConnectionState()
	if err := tr.FillChannel(&cs, w.server.Pin()); err != nil {
		w.t.Fatal(err)
	}
	c.send(&wire.MaintainBegin{Version: wire.Version, ID: id, Purpose: purpose, Suite: wire.SuiteHex(), Key: tr.Key})
	ch, err := wire.Expect[*wire.Challenge](c.conn)
	if err != nil {
		w.t.Fatalf("challenge: %v", err)
	}
	tr.Nonce, c.x = ch.Nonce, ch.Exchange
	return c, tr
}

func evidenceFor(t *testing.T, g *snpsim.Guest, data [64]byte) *wire.Evidence {
	t.Helper()
	e, err := g.Platform().Report(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements}
}

// Who may not maintain: each is told the same and nothing more.
func TestMaintainAttacks(t *testing.T) {
	w := newWorld(t, nil)
	id, other, gone, asleep := newID(), newID(), newID(), newID()
	for _, i := range []wire.Hex32{id, other, gone, asleep} {
		w.add(i, Takeover)
	}
	g, og, gg := w.guest(id, nil), w.guest(other, nil), w.guest(gone, nil)
	for _, x := range []*snpsim.Guest{g, og, gg} {
		w.up(x)
	}
	if err := w.state.Decommission(context.Background(), gone, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	pending := w.guest(asleep, nil)
	rel, err := client.Launch(ctxFor(t), w.client(pending.Platform()))
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	_, elsewhere := w.maintainBegin(id, wire.PurposeRotate) // another connection's transcript
	launch := w.begin(id)
	for _, c := range []struct {
		name string
		id   wire.Hex32
		evil func(tr *wire.MaintainTranscript) *wire.Evidence
		want code.Code
	}{
		{"evidence of another connection (relay)", id, func(*wire.MaintainTranscript) *wire.Evidence { return evidenceFor(t, g, elsewhere.ReportData()) }, code.ReportDataMismatch},
		{"evidence for launch", id, func(*wire.MaintainTranscript) *wire.Evidence { return launch.evidence(g) }, code.ReportDataMismatch},
		{"another purpose than was begun", id, func(tr *wire.MaintainTranscript) *wire.Evidence {
			o := *tr
			o.Purpose = wire.PurposeHeaders
			return evidenceFor(t, g, o.ReportData())
		}, code.ReportDataMismatch},
		{"a second launch of the image, which never asked", id, func(tr *wire.MaintainTranscript) *wire.Evidence {
			return evidenceFor(t, w.guest(id, nil), tr.ReportData())
		}, code.BootNotCurrent},
		{"another instance's VM", id, func(tr *wire.MaintainTranscript) *wire.Evidence { return evidenceFor(t, og, tr.ReportData()) }, code.HostDataMismatch},
		{"a boot that did not report", asleep, func(tr *wire.MaintainTranscript) *wire.Evidence { return evidenceFor(t, pending, tr.ReportData()) }, code.BootNotCurrent},
		{"a decommissioned VM", gone, func(tr *wire.MaintainTranscript) *wire.Evidence { return evidenceFor(t, gg, tr.ReportData()) }, code.InstanceDecommissioned},
		{"an ID that nobody registered", newID(), func(tr *wire.MaintainTranscript) *wire.Evidence {
			return evidenceFor(t, w.guest(tr.ID, nil), tr.ReportData())
		}, code.InstanceUnknown},
		{"a changed image", id, func(tr *wire.MaintainTranscript) *wire.Evidence {
			return evidenceFor(t, w.guest(id, func(c *snpsim.GuestConfig) { c.Measurement[0] ^= 1 }), tr.ReportData())
		}, code.MeasurementUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, tr := w.maintainBegin(c.id, wire.PurposeRotate)
			conn.send(c.evil(tr))
			_, err := wire.Expect[*wire.MaintainState](conn.conn)
			ans, ok := errors.AsType[*wire.AnswerError](err)
			if !ok || ans.Seconds != 0 || ans.Code != code.MaintainRefused {
				t.Fatalf("%v, want refused with %s", err, code.MaintainRefused)
			}
			found, err := FindDecisions(w.decisions, ans.Exchange)
			if err != nil || len(found) != 1 || found[0].Code != c.want {
				t.Errorf("decided %+v, %v; want %s", found, err, c.want)
			}
		})
	}
	// Evidence serves once: the same report on the same connection's successor.
	conn, tr := w.maintainBegin(id, wire.PurposeHeaders)
	ev := evidenceFor(t, g, tr.ReportData())
	conn.send(ev)
	if _, err := wire.Expect[*wire.MaintainState](conn.conn); err != nil {
		t.Fatal(err)
	}
	again, _ := w.maintainBegin(id, wire.PurposeHeaders)
	again.send(ev)
	if _, err := wire.Expect[*wire.MaintainState](again.conn); err == nil {
		t.Error("a report was taken twice")
	}
	// A request of another purpose, and one that is no request.
	for _, m := range []wire.Message{&wire.Rotate{}, &wire.Ack{Boot: 1}} {
		conn, tr := w.maintainBegin(id, wire.PurposeHeaders)
		conn.send(evidenceFor(t, g, tr.ReportData()))
		if _, err := wire.Expect[*wire.MaintainState](conn.conn); err != nil {
			t.Fatal(err)
		}
		conn.send(m)
		_, err := wire.Expect[*wire.Release](conn.conn)
		if ans, ok := errors.AsType[*wire.AnswerError](err); !ok || ans.Code != code.LaunchMalformed {
			t.Errorf("%T: %v", m, err)
		}
	}
	if r, err := w.state.Rotation(context.Background(), w.instance(id)); r != "" || err != nil {
		t.Errorf("an attack opened a rotation: %q, %v", r, err)
	}
}

// A boot that another took over from, or an instance that was decommissioned,
// gets nothing on a channel that is open already.
func TestMaintainAsksAgain(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, _ := w.add(id, Takeover)
	g := w.guest(id, nil)
	w.up(g)
	m := w.mustMaintain(g, wire.PurposeHeaders)
	w.up(w.guest(id, nil))
	told(t, "taken over", m.RegisterHeaders(ctxFor(t), []wire.HeaderRecord{like(inst.Headers[0])}, nil), code.MaintainRefused)

	g = w.guest(id, nil)
	w.up(g)
	m = w.mustMaintain(g, wire.PurposeHeaders)
	if err := w.state.Decommission(context.Background(), id, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	told(t, "decommissioned", m.RegisterHeaders(ctxFor(t), []wire.HeaderRecord{like(inst.Headers[0])}, nil), code.MaintainRefused)
	if got := w.instance(id).Headers; len(got) != 1 {
		t.Errorf("registered %+v", got)
	}
}

// One instance's VM cannot keep the verifier busy, and does not lock others out.
func TestMaintainFlood(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Limits.IDBurst, o.Limits.IDRate = 4, 1e-9 })
	id, other := newID(), newID()
	inst, _ := w.add(id, Takeover)
	w.add(other, Takeover)
	g, og := w.guest(id, nil), w.guest(other, nil)
	w.up(g)
	w.up(og)
	for range 4 {
		w.mustMaintain(g, wire.PurposeHeaders)
	}
	conn, tr := w.maintainBegin(id, wire.PurposeHeaders)
	conn.send(evidenceFor(t, g, tr.ReportData()))
	if _, err := wire.Expect[*wire.MaintainState](conn.conn); err == nil || !strings.Contains(err.Error(), string(code.VerifierBusy)) {
		t.Errorf("fifth: %v", err)
	}
	m := w.mustMaintain(og, wire.PurposeHeaders)
	r := like(inst.Headers[0])
	var err error
	for range wire.MaxRequests + 1 {
		if err = m.RegisterHeaders(ctxFor(t), []wire.HeaderRecord{r}, nil); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("requests without end on one channel")
	}
}

func TestRotateKeys(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, old := w.add(id, Takeover)
	g := w.guest(id, nil)
	w.up(g)
	ctx := ctxFor(t)
	_, err := w.mustMaintain(g, wire.PurposeRotate).Rotate(ctx)
	told(t, "a rotation that the owner did not open", err, code.MaintainRotation)

	s, err := w.state.OpenRotation(ctx, id, true) // verifier instance rotate
	if err != nil {
		t.Fatal(err)
	}
	s.Zero()
	rotate := func(g *snpsim.Guest) (*client.Maintenance, *wire.Payload) {
		t.Helper()
		m := w.mustMaintain(g, wire.PurposeRotate)
		p, err := m.Rotate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m, p
	}
	m, p := rotate(g)
	if !p.PreviousDiskKey.Equal(old) || p.DiskKey.Equal(old) || p.DiskKey.Len() != diskKeySize {
		t.Fatal("the keys are not the old one and a new one")
	}
	_, again := rotate(g)
	if !again.DiskKey.Equal(p.DiskKey) || !again.PreviousDiskKey.Equal(old) {
		t.Error("asking again gave other keys")
	}
	next := like(inst.Headers[0])
	if err := m.RegisterHeaders(ctx, []wire.HeaderRecord{next}, nil); err != nil {
		t.Fatal(err)
	}
	other := w.mustMaintain(g, wire.PurposeHeaders)
	told(t, "dropping records of a rotation", other.RegisterHeaders(ctx, nil, []wire.Hex32{digestOf(t, next)}), code.MaintainRotation)
	// A boot in the middle gets both keys and both records.
	g = w.guest(id, nil)
	if got := w.up(g); !got.DiskKey.Equal(p.DiskKey) || !got.PreviousDiskKey.Equal(old) || len(got.Headers) != 2 {
		t.Errorf("released %d records", len(got.Headers))
	}
	m, _ = rotate(g)
	bogus := w.mustMaintain(g, wire.PurposeRotate)
	told(t, "keeping an unknown record", bogus.EndRotation(ctx, newID(), p.DiskKey), code.MaintainRotation)
	bogus = w.mustMaintain(g, wire.PurposeRotate)
	told(t, "keeping another key", bogus.EndRotation(ctx, digestOf(t, next), secret.Random(32)), code.MaintainRotation)
	bogus = w.mustMaintain(g, wire.PurposeRotate)
	told(t, "keeping no key", bogus.EndRotation(ctx, digestOf(t, next), nil), code.MaintainRotation)
	for range 2 {
		if err := m.EndRotation(ctx, digestOf(t, next), p.DiskKey); err != nil {
			t.Fatal(err)
		}
	}
	g = w.guest(id, nil)
	if got := w.up(g); !got.DiskKey.Equal(p.DiskKey) || got.PreviousDiskKey.Len() != 0 || !slices.Equal(got.Headers, []wire.HeaderRecord{next}) {
		t.Errorf("after the rotation: %+v", got.Headers)
	}

	// The VM may open one itself where its record says so; it is given up again.
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.MayRotate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	m, p2 := rotate(g)
	if !p2.PreviousDiskKey.Equal(p.DiskKey) {
		t.Error("the second rotation begins with another key")
	}
	// The message that ended the first rotation, late: it keeps the same key,
	// which is the one before now.
	for range 2 {
		if err := m.EndRotation(ctx, digestOf(t, next), p.DiskKey); err != nil {
			t.Fatal(err)
		}
	}
	late := w.mustMaintain(g, wire.PurposeRotate)
	told(t, "keeping a key that was dropped", late.EndRotation(ctx, digestOf(t, next), p2.DiskKey), code.MaintainRotation)
	if got := w.up(w.guest(id, nil)); !got.DiskKey.Equal(p.DiskKey) || got.PreviousDiskKey.Len() != 0 || len(got.Headers) != 1 {
		t.Error("after the abort the release is another one")
	}
}

// A rotation's state is in the keys alone: whatever of the other writes a crash
// of the verifier leaves out, the release has the key of the disk as it is.
func TestRotationInterrupted(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	inst, old := w.add(id, Takeover)
	ctx := ctxFor(t)
	next := like(inst.Headers[0])
	open := func() *Secrets {
		t.Helper()
		s, err := w.state.OpenRotation(ctx, id, true)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	end := func(keep wire.HeaderRecord, key *secret.Bytes) error {
		d := digestOf(t, keep)
		_, err := w.state.EndRotation(ctx, id, &wire.RotateEnd{Keep: d, MAC: wire.KeepMAC(key, id, d)})
		return err
	}
	headers := func(h ...wire.HeaderRecord) {
		t.Helper()
		if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.Headers = h; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	// Done, but for the records: they go on, and the key before is gone.
	s := open()
	headers(inst.Headers[0], next)
	if err := end(next, s.DiskKey); err != nil {
		t.Fatal(err)
	}
	headers(inst.Headers[0], next)
	if got := w.up(w.guest(id, nil)); !got.DiskKey.Equal(s.DiskKey) || got.PreviousDiskKey.Len() != 0 {
		t.Error("a key that is over was released")
	}
	if err := end(next, s.DiskKey); err != nil || len(w.instance(id).Headers) != 1 {
		t.Errorf("again: %v", err)
	}
	if err := end(next, old); err == nil {
		t.Error("the key that was dropped came back")
	}
	// Taken back, but for the records.
	s2 := open()
	if !s2.PreviousDiskKey.Equal(s.DiskKey) {
		t.Error("the second rotation begins with another key")
	}
	headers(next, like(next))
	if err := end(next, s.DiskKey); err != nil {
		t.Fatal(err)
	}
	headers(next, like(next))
	if got := w.up(w.guest(id, nil)); !got.DiskKey.Equal(s.DiskKey) || got.PreviousDiskKey.Len() != 0 {
		t.Error("the key that stays was not released")
	}
	if err := end(next, s2.DiskKey); err == nil {
		t.Error("a key that was never used is kept")
	}
	// Two at once: one pair.
	a, b := open(), open()
	if !a.DiskKey.Equal(b.DiskKey) || !a.PreviousDiskKey.Equal(b.PreviousDiskKey) {
		t.Error("two calls gave two pairs")
	}
}

func TestEnrolKeys(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	ctx := ctxFor(t)
	inst := &Instance{ID: id, Measurements: []Measurement{{Digest: appraise.Hex48(digest).String(), Source: "test"}}, OnSecond: Takeover, MayRotate: true}
	if err := w.state.AddInstance(ctx, inst, &Secrets{}); err != nil {
		t.Fatal(err)
	}
	g := w.guest(id, nil)
	w.up(g)
	m := w.mustMaintain(g, wire.PurposeHeaders)
	told(t, "a header of an instance without a disk", m.RegisterHeaders(ctx, []wire.HeaderRecord{record()}, nil), code.MaintainHeaders)
	m = w.mustMaintain(g, wire.PurposeRotate)
	p, err := m.Rotate(ctx)
	if err != nil || p.DiskKey.Len() != diskKeySize || p.PreviousDiskKey.Len() != 0 {
		t.Fatalf("%v", err)
	}
	r := record()
	if err := m.RegisterHeaders(ctx, []wire.HeaderRecord{r}, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := m.Rotate(ctx); err != nil || !again.DiskKey.Equal(p.DiskKey) || again.PreviousDiskKey.Len() != 0 {
		t.Errorf("asking again: %v", err)
	}
	if i := w.instance(id); !i.Enrolling || !i.HasDiskKey {
		t.Errorf("in the middle: %+v", i)
	}
	if err := m.EndRotation(ctx, digestOf(t, r), p.DiskKey); err != nil {
		t.Fatal(err)
	}
	if got := w.up(w.guest(id, nil)); !got.DiskKey.Equal(p.DiskKey) || len(got.Headers) != 1 {
		t.Error("the release lacks the key or the record")
	}
}

func nomination(b byte) *wire.Nominate {
	d := [48]byte{b, 1}
	return &wire.Nominate{Digest: hex.EncodeToString(d[:]), Kernel: wire.Hex32{b}, Initrd: wire.Hex32{b}, Cmdline: wire.Hex32{b}, Source: "linux-image 6.12"}
}

func TestNominate(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	w.up(g)
	ctx := ctxFor(t)
	next := func(b byte) *snpsim.Guest {
		return w.guest(id, func(c *snpsim.GuestConfig) { c.Measurement = [48]byte{b, 1} })
	}
	// Without the owner's word it waits, and boots nothing.
	if ok, err := w.mustMaintain(g, wire.PurposeNominate).Nominate(ctx, nomination(1)); ok || err != nil {
		t.Fatalf("allowed %v, %v", ok, err)
	}
	if _, err := client.Launch(ctx, w.client(next(1).Platform())); err == nil {
		t.Error("a digest that waits was released to")
	}
	if _, err := w.state.DecideNomination(ctx, id, nomination(2).Digest, true, time.Now()); err == nil {
		t.Error("approved what nobody nominated")
	}
	if _, err := w.state.DecideNomination(ctx, id, nomination(1).Digest, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	if ok, err := w.mustMaintain(g, wire.PurposeNominate).Nominate(ctx, nomination(1)); ok || err != nil {
		t.Fatalf("after the owner's no: allowed %v, %v", ok, err)
	}
	if _, err := w.state.DecideNomination(ctx, id, nomination(1).Digest, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	// Approved: both boot until the new one has; then the old one is over.
	g = w.guest(id, nil)
	w.up(g)
	if ok, err := w.mustMaintain(g, wire.PurposeNominate).Nominate(ctx, nomination(1)); !ok || err != nil {
		t.Errorf("nominated again: %v, %v", ok, err)
	}
	g = next(1)
	w.up(g)
	if _, err := client.Launch(ctx, w.client(w.guest(id, nil).Platform())); !errors.Is(err, client.ErrRefused) {
		t.Errorf("the old digest after the new one booted: %v", err)
	}
	// With -may-nominate, at most two are on their way; the newest count.
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.MayNominate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	m := w.mustMaintain(g, wire.PurposeNominate)
	for b := byte(2); b <= 4; b++ {
		if ok, err := m.Nominate(ctx, nomination(b)); !ok || err != nil {
			t.Errorf("nomination %d: %v, %v", b, ok, err)
		}
	}
	if got := w.instance(id).Measurements; len(got) != 3 || got[0].Digest != nomination(1).Digest || got[1].Digest != nomination(3).Digest {
		t.Errorf("digests %+v", got)
	}
	if _, err := client.Launch(ctx, w.client(next(2).Platform())); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a nomination that others replaced: %v", err)
	}
	// A failed boot of the new one drops nothing: the old one is the way back.
	rel, err := client.Launch(ctx, w.client(next(3).Platform()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rel.Report(ctx, wire.ResultFailed, code.LUKSWrongKey, nil); err != nil {
		t.Fatal(err)
	}
	rel.Close()
	w.up(next(1))
	w.up(next(3))
	if got := w.instance(id).Measurements; len(got) != 2 || got[0].Digest != nomination(3).Digest || got[0].Nominated != 0 || got[1].Digest != nomination(4).Digest {
		t.Errorf("after the third booted: %+v", got)
	}
}

// Keys that are not on record in the audit log are not given.
func TestNoKeysWithoutAudit(t *testing.T) {
	w := newDomainWorld(t, nil)
	id := newID()
	w.addTo(id)
	ctx := ctxFor(t)
	if err := w.state.UpdateInstance(ctx, id, func(i *Instance) error { i.MayRotate = true; return nil }); err != nil {
		t.Fatal(err)
	}
	g := w.psp.Launch(snpsim.GuestConfig{Measurement: imageA, HostData: id})
	rel, err := client.Launch(ctx, w.client(g.Platform()))
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if _, err := rel.Report(ctx, wire.ResultOpened, "", nil); err != nil {
		t.Fatal(err)
	}
	m, err := client.Maintain(ctx, w.client(g.Platform()), wire.PurposeRotate)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := w.server.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := m.Rotate(ctx)
	if c, _ := code.Of(err); c != code.VerifierBusy {
		t.Errorf("given %v, %v", p, err)
	}
}

// A frame that is no request ends the exchange, and changes nothing.
func TestMaintainMalformed(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)
	w.up(g)
	before := w.instance(id)
	for _, body := range []string{
		`{}`, `null`, `{"type":"rotate","more":1}`, `{"type":"rotate"}{"type":"rotate"}`, `{"type":"register-headers","add":null,"drop":[]}`,
		`{"type":"register-headers","add":[{"digest":"ab","Digest":"cd"}],"drop":[]}`, `{"type":"rotate-end","keep":"00"}`,
		`{"type":"nominate","digest":"` + strings.Repeat("AB", 48) + `"}`, strings.Repeat("[", 60000),
	} {
		c, tr := w.maintainBegin(id, wire.PurposeRotate)
		c.send(evidenceFor(t, g, tr.ReportData()))
		if _, err := wire.Expect[*wire.MaintainState](c.conn); err != nil {
			t.Fatal(err)
		}
		if err := wire.WriteFrame(c.conn, []byte(body)); err != nil {
			t.Fatal(err)
		}
		_, err := wire.Expect[*wire.Release](c.conn)
		if ans, ok := errors.AsType[*wire.AnswerError](err); !ok || ans.Code != code.LaunchMalformed {
			t.Errorf("%.60s: %v", body, err)
		}
	}
	// A length that no frame has.
	c, tr := w.maintainBegin(id, wire.PurposeRotate)
	c.send(evidenceFor(t, g, tr.ReportData()))
	if _, err := wire.Expect[*wire.MaintainState](c.conn); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Expect[*wire.Release](c.conn); err == nil {
		t.Error("a frame of 4 GiB")
	}
	after := w.instance(id)
	if r, err := w.state.Rotation(context.Background(), after); r != "" || err != nil || !slices.Equal(before.Headers, after.Headers) || len(after.Nominations) != 0 {
		t.Errorf("changed: %+v, %q", after, r)
	}
}

// The owner's word about a disk ends what was open, and a decommissioned
// instance has none.
func TestSetDisk(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	ctx := ctxFor(t)
	s, err := w.state.OpenRotation(ctx, id, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Zero()
	key, r := secret.Random(32), record()
	if err := w.state.SetDisk(ctx, id, key, nil); err == nil {
		t.Error("a disk key without a header record")
	}
	if err := w.state.SetDisk(ctx, id, key, []wire.HeaderRecord{r}); err != nil {
		t.Fatal(err)
	}
	if got := w.up(w.guest(id, nil)); !got.DiskKey.Equal(key) || got.PreviousDiskKey.Len() != 0 || !slices.Equal(got.Headers, []wire.HeaderRecord{r}) {
		t.Errorf("released %+v", got.Headers)
	}
	if err := w.state.Decommission(ctx, id, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if err := w.state.SetDisk(ctx, id, key, []wire.HeaderRecord{r}); !errors.Is(err, ErrDecommissioned) {
		t.Error(err)
	}
}
