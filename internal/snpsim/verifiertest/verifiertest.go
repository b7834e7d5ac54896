// Package verifiertest is a verifier over real TLS on loopback with a simulated
// chip that it trusts, for tests of programs that ask one.
package verifiertest

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/client"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// World is the verifier and the chip.
type World struct {
	State  *server.State
	Server *server.Server
	Addr   string // tcp://...
	psp    *snpsim.PSP
	t      testing.TB
}

// Digest is the launch digest of the image that VMs run.
var Digest = [48]byte{0xd1, 0x9e, 0x57}

// New starts a verifier, until the test ends.
func New(t testing.TB) *World {
	t.Helper()
	ctx := context.Background()
	w := &World{t: t, psp: snpsimtest.PSP(t, snp.Milan)}
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	policy, err := server.MarshalPolicy(&appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{snp.Milan: {}}})
	fatal(err)
	raw, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"))
	fatal(err)
	w.State, err = server.CreateState(ctx, raw, sealed.Key{File: secret.Random(32)}, server.Config{
		Roots:  []server.Root{{Product: string(snp.Milan), ARK: w.psp.ARK(), Intermediates: [][]byte{}}},
		Policy: policy,
	}, time.Now())
	fatal(err)
	appraiser, err := server.NewSNPAppraiser(ctx, w.State, func() (*appraise.Roots, error) { return appraise.NewRoots() }, nil)
	fatal(err)
	w.Server, err = server.New(ctx, server.Options{State: w.State, Appraiser: appraiser,
		Limits: server.Limits{PeerBurst: 1e6, PeerRate: 1e6, ConnsByPeer: 1000, IDBurst: 1e6}})
	fatal(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(err)
	w.Addr = "tcp://" + l.Addr().String()
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.Server.Serve(sctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		w.State.Close()
	})
	return w
}

// Add registers an instance; without a record it has no disk.
func (w *World) Add(record *wire.HeaderRecord, key *secret.Bytes) wire.Hex32 {
	w.t.Helper()
	var id wire.Hex32
	copy(id[:], secret.Random(32).Bytes())
	i := &server.Instance{ID: id, Measurements: []server.Measurement{{Digest: wire.DigestText(Digest), Source: "test"}}, OnSecond: server.Takeover, Created: time.Now().Unix()}
	sec := &server.Secrets{}
	if record != nil {
		i.Headers, sec.DiskKey = []wire.HeaderRecord{*record}, secret.Copy(key.Bytes())
	}
	if err := w.State.AddInstance(context.Background(), i, sec); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// Instance reads an instance.
func (w *World) Instance(id wire.Hex32) *server.Instance {
	w.t.Helper()
	i, err := w.State.Instance(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// Rotation says which change of its disk key is open.
func (w *World) Rotation(id wire.Hex32) string {
	w.t.Helper()
	r, err := w.State.Rotation(context.Background(), w.Instance(id))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// Edit changes an instance, as its owner does.
func (w *World) Edit(id wire.Hex32, f func(*server.Instance)) {
	w.t.Helper()
	if err := w.State.UpdateInstance(context.Background(), id, func(i *server.Instance) error { f(i); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// VM is one launch of an instance on the chip.
type VM struct {
	w     *World
	guest *snpsim.Guest
}

// Launch starts a VM.
func (w *World) Launch(id wire.Hex32, digest [48]byte) *VM {
	return &VM{w, w.psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id})}
}

// Open is for whoever opens a platform.
func (v *VM) Open() (platform.Platform, error) { return v.guest.Platform(), nil }

// Client asks the verifier.
func (v *VM) Client() client.Config {
	return client.Config{Servers: []string{v.w.Addr}, Pins: []wire.Pin{v.w.Server.Pin()}, Platform: v.guest.Platform(),
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}
}

// Boot gets the release, has it opened, and reports that with the header that
// open names.
func (v *VM) Boot(open func(*wire.Payload) ([]wire.Hex32, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rel, err := client.Launch(ctx, v.Client())
	if err != nil {
		return err
	}
	defer rel.Close()
	headers, err := open(rel.Payload)
	if err != nil {
		return err
	}
	_, err = rel.Report(ctx, wire.ResultOpened, "", headers)
	return err
}
