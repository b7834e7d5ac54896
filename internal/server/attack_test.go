package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/wire"
)

// Each attack of DESIGN section 3 that reaches the verifier, mounted.
func TestAttacks(t *testing.T) {
	w := newWorld(t, nil)
	id, other := newID(), newID()
	w.add(id, Takeover)
	w.add(other, Takeover)
	stranger := snpsimtest.Stranger(t, snp.Milan)
	neighbour, err := w.psp.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	swap := func(ev *wire.Evidence, kind string, der []byte) {
		for i := range ev.Endorsements {
			if ev.Endorsements[i].Kind == kind {
				ev.Endorsements[i].DER = der
			}
		}
	}
	for _, c := range []struct {
		name string
		id   wire.Hex32 // named in begin
		evil func(c *talk) *wire.Evidence
		want code.Code
	}{
		{"another instance's HOST_DATA", id, func(c *talk) *wire.Evidence { return c.evidence(w.guest(other, nil)) }, code.HostDataMismatch},
		{"HOST_DATA of nobody", id, func(c *talk) *wire.Evidence { return c.evidence(w.guest(newID(), nil)) }, code.HostDataMismatch},
		{"zero HOST_DATA", id, func(c *talk) *wire.Evidence { return c.evidence(w.guest(wire.Hex32{}, nil)) }, code.HostDataMismatch},
		{"changed image", id, func(c *talk) *wire.Evidence {
			return c.evidence(w.guest(id, func(g *snpsim.GuestConfig) { g.Measurement[47] ^= 1 }))
		}, code.MeasurementUnknown},
		{"debug policy", id, func(c *talk) *wire.Evidence {
			return c.evidence(w.guest(id, func(g *snpsim.GuestConfig) { g.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug) }))
		}, code.GuestDebug},
		{"migratable", id, func(c *talk) *wire.Evidence {
			return c.evidence(w.guest(id, func(g *snpsim.GuestConfig) { g.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyMigrateMA) }))
		}, code.GuestMigratable},
		{"VMPL 1", id, func(c *talk) *wire.Evidence {
			return c.evidence(w.guest(id, func(g *snpsim.GuestConfig) { g.VMPL = 1 }))
		}, code.GuestVMPL},
		{"unknown ARK under the same name", id, func(c *talk) *wire.Evidence {
			return c.evidence(stranger.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id}))
		}, code.VEKRoot},
		{"unknown ARK, sent along", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(stranger.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id}))
			ev.Endorsements = append(ev.Endorsements, wire.Endorsement{Kind: "ark", DER: stranger.ARK()})
			return ev
		}, code.VEKRoot},
		{"VCEK of another chip", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			swap(ev, "vek", neighbour.VCEK())
			return ev
		}, code.ReportSignature},
		{"flipped signature byte", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			ev.Report[0x2A0] ^= 1
			return ev
		}, code.ReportSignature},
		{"signed field changed", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(other, nil))
			copy(ev.Report[0xC0:], id[:])
			return ev
		}, code.ReportSignature},
		{"report one byte short", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			ev.Report = ev.Report[:len(ev.Report)-1]
			return ev
		}, code.ReportMalformed},
		{"report one byte long", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			ev.Report = append(ev.Report, 0)
			return ev
		}, code.ReportMalformed},
		{"random report", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			rand.Read(ev.Report)
			return ev
		}, code.ReportMalformed},
		{"another platform", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			ev.Platform = "simulated-enclave"
			return ev
		}, code.PlatformRefused},
		{"the report by which a guest learns its ID", id, func(c *talk) *wire.Evidence {
			e, err := w.guest(id, nil).Platform().Report(context.Background(), wire.LearnIDReportData())
			if err != nil {
				t.Fatal(err)
			}
			return &wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements}
		}, code.ReportDataMismatch},
		{"doubled endorsement", id, func(c *talk) *wire.Evidence {
			ev := c.evidence(w.guest(id, nil))
			ev.Endorsements = append(ev.Endorsements, ev.Endorsements[0])
			return ev
		}, code.VEKChain},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := w.begin(c.id)
			conn.send(c.evil(conn))
			_, err := conn.release()
			w.refused(c.name, err, c.want)
		})
	}
	if b, err := w.state.Boots(context.Background(), id); err != nil || b.Issued != 0 {
		t.Errorf("an attack moved the boot counter: %+v, %v", b, err)
	}
}

// Evidence counts on the connection and for the nonce that it was made for.
func TestReplayAndRelay(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	g := w.guest(id, nil)

	first := w.begin(id)
	ev := first.evidence(g)
	relay := w.begin(id) // another TLS connection, another nonce, another key
	relay.send(ev)
	_, err := relay.release()
	w.refused("evidence relayed from another connection", err, code.ReportDataMismatch)

	first.send(ev)
	p, err := first.release()
	if err != nil {
		t.Fatalf("on its own connection: %v", err)
	}
	p.Zero()
	again := w.begin(id)
	again.send(ev)
	_, err = again.release()
	w.refused("evidence replayed", err, code.ReportDataMismatch)

	// A man in the middle who ends the guest's TLS with the verifier's nonce,
	// ID and even HPKE key, but on a channel of his own.
	mitm := w.begin(id)
	forged := *mitm.tr
	forged.Exporter[0] ^= 1
	e, err := g.Platform().Report(context.Background(), forged.ReportData())
	if err != nil {
		t.Fatal(err)
	}
	mitm.send(&wire.Evidence{Platform: e.Platform, Report: e.Report, Endorsements: e.Endorsements})
	_, err = mitm.release()
	w.refused("another channel's exporter", err, code.ReportDataMismatch)

	// A second evidence on one connection is not looked at.
	twice := w.begin(id)
	bad := twice.evidence(w.guest(newID(), nil))
	twice.send(bad)
	_, err = twice.release()
	w.refused("wrong evidence", err, code.HostDataMismatch)
	wire.Write(twice.conn, twice.evidence(g)) // may fail: the verifier has closed
	if _, err := twice.release(); err == nil {
		t.Error("a second evidence on one connection was answered")
	}
}

// The release opens under the key and transcript of its exchange alone.
func TestReleaseIsBoundToItsExchange(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	c := w.begin(id)
	c.send(c.evidence(w.guest(id, nil)))
	r, err := wire.Expect[*wire.Release](c.conn)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := wire.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Open(stolen, c.tr, r.Sealed); err == nil {
		t.Error("another key opened the release")
	}
	other := *c.tr
	other.Nonce[0] ^= 1
	if _, err := wire.Open(c.key, &other, r.Sealed); err == nil {
		t.Error("another transcript opened the release")
	}
	p, err := wire.Open(c.key, c.tr, r.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	p.Zero()
}

// Messages that make no sense end the exchange, at any point of it.
func TestMalformed(t *testing.T) {
	w := newWorld(t, nil)
	id := newID()
	w.add(id, Takeover)
	malformed := func(name string, c *talk) {
		t.Helper()
		_, err := wire.Expect[*wire.Release](c.conn)
		ans, ok := err.(*wire.AnswerError)
		if !ok || ans.Code != code.LaunchMalformed {
			t.Errorf("%s: %v, want %s", name, err, code.LaunchMalformed)
			return
		}
		if d, err := FindDecisions(w.decisions, ans.Exchange); err != nil || len(d) == 0 || d[len(d)-1].Code != code.LaunchMalformed {
			t.Errorf("%s: recorded %v, %v", name, d, err)
		}
	}
	raw := func(c *talk, b []byte) *talk {
		if _, err := c.conn.Write(b); err != nil {
			t.Fatal(err)
		}
		return c
	}
	frame := func(body string) []byte {
		return append([]byte{0, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	malformed("frame too large", raw(w.dial(), []byte{0, 1, 0, 1}))
	malformed("empty frame", raw(w.dial(), []byte{0, 0, 0, 0}))
	malformed("not JSON", raw(w.dial(), frame("hello")))
	malformed("unknown type", raw(w.dial(), frame(`{"type":"end"}`)))
	malformed("nested", raw(w.dial(), frame(`{"type":`+string(bytes.Repeat([]byte("["), 5000)))))
	malformed("evidence first", func() *talk {
		c := w.begin(newID())
		ev := c.evidence(w.guest(id, nil))
		d := w.dial()
		d.send(ev)
		return d
	}())
	malformed("begin twice", func() *talk {
		c := w.begin(id)
		c.send(&wire.Begin{Version: wire.Version, ID: id, Suite: wire.SuiteHex(), Key: c.tr.Key})
		return c
	}())
	malformed("HPKE key that is none", func() *talk {
		c := w.dial()
		c.send(&wire.Begin{Version: wire.Version, ID: id, Suite: wire.SuiteHex(), Key: []byte{1, 2, 3}})
		return c
	}())
	cut := w.dial()
	raw(cut, []byte{0, 0, 0, 10, '{'})
	if err := cut.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	malformed("truncated frame", cut)

	for name, b := range map[string]*wire.Begin{
		"version 2":     {Version: 2, ID: id, Suite: wire.SuiteHex(), Key: []byte{1}},
		"another suite": {Version: wire.Version, ID: id, Suite: "000100010001", Key: []byte{1}},
	} {
		c := w.dial()
		c.send(b)
		_, err := wire.Expect[*wire.Challenge](c.conn)
		if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.LaunchVersion {
			t.Errorf("%s: %v, want %s", name, err, code.LaunchVersion)
		}
	}
	c := w.dial()
	c.send(&wire.Begin{Version: wire.Version, Suite: wire.SuiteHex(), Key: []byte{1}})
	_, err := wire.Expect[*wire.Challenge](c.conn)
	if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.IDZero {
		t.Errorf("zero ID: %v, want %s", err, code.IDZero)
	}
}

// Evidence without a certificate is not refused: it may come with one later.
func TestMissingCertificate(t *testing.T) {
	w := newWorld(t, nil)
	for _, id := range []wire.Hex32{newID(), newID()} { // the second is unknown
		if _, err := w.state.Instance(context.Background(), id); err == nil {
			t.Fatal("known")
		}
		c := w.begin(id)
		ev := c.evidence(w.guest(id, nil))
		ev.Endorsements = nil
		c.send(ev)
		_, err := c.release()
		if ans, ok := err.(*wire.AnswerError); !ok || ans.Code != code.CollateralMissing || ans.Seconds == 0 {
			t.Errorf("%v, want later with %s", err, code.CollateralMissing)
		}
	}
}
