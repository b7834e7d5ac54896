package fetchsecret_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	fetchsecret "attestbox/applets/fetch-secret"
	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

// What the scripts call is the binary by its own name. With TEST_CHIP it runs
// on a simulated chip, which the applet itself has no way to choose; without,
// it is the binary as it is built, which finds no secure processor here.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"attestbox": func() { os.Exit(applets.Main(os.Args)) },
		"certify":   func() { os.Exit(applets.Main(os.Args)) },
		"fetch-secret": func() {
			if os.Getenv("TEST_CHIP") == "" {
				os.Exit(applets.Main(os.Args))
			}
			env := applet.OSEnv("fetch-secret")
			err := fetchsecret.Fetch(context.Background(), env, os.Args[1:], chip)
			applet.Print(env.Stderr, env.Name, err)
			os.Exit(applet.ExitCode(err))
		},
	})
}

// chip is the guest that the environment describes.
func chip() (platform.Platform, error) {
	psp, err := snpsim.Load(os.Getenv("TEST_CHIP"))
	if err != nil {
		return nil, err
	}
	report := fill(os.Getenv("TEST_REPORT_ID"))
	c := snpsim.GuestConfig{HostData: fill(os.Getenv("TEST_ID")), ReportID: &report}
	copy(c.Measurement[:], os.Getenv("TEST_MEASUREMENT"))
	return psp.Launch(c).Platform(), nil
}

func fill(text string) (b [32]byte) {
	copy(b[:], text)
	return b
}

func TestScripts(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Milan)
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error { return world(t, env, psp) },
		Cmds:  map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

const (
	diskKey  = "the disk key, 32 bytes in length"
	password = "sesame, twice over"
	measured = "the image"
)

// world gives a script its own verifier and, beside it, a port where something
// else answers. Nothing is shared between scripts but the chip's keys.
func world(t *testing.T, env *testscript.Env, psp *snpsim.PSP) error {
	ctx := context.Background()
	chipDir := filepath.Join(env.WorkDir, "chip")
	if err := psp.Save(chipDir); err != nil {
		return err
	}
	raw, err := bolt.Open(filepath.Join(env.WorkDir, "state.db"))
	if err != nil {
		return err
	}
	policy, err := server.MarshalPolicy(&appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{psp.Product(): {}}})
	if err != nil {
		return err
	}
	state, err := server.CreateState(ctx, raw, sealed.Key{File: secret.Random(32)},
		server.Config{Roots: []server.Root{{Product: string(psp.Product()), ARK: psp.ARK(), Intermediates: [][]byte{}}}, Policy: policy}, time.Now())
	if err != nil {
		return err
	}
	var digest [48]byte
	copy(digest[:], measured)
	if err := state.AddInstance(ctx, &server.Instance{
		ID: fill("instance"), Measurements: []server.Measurement{{Digest: appraise.Hex48(digest).String(), Source: "test"}}, Created: time.Now().Unix(), OnSecond: "takeover",
		Headers: []wire.HeaderRecord{{Digest: wire.Hex32{1}.String(), Size: 1 << 20, UUID: "0b0e1a6c-6a33-4f3c-9f53-3e2f3b1f2a10", SegmentOffset: 1 << 20,
			SectorSize: 4096, Cipher: "aes-xts-plain64", KeyBytes: 64, Integrity: "none"}},
	}, &server.Secrets{DiskKey: secret.Copy([]byte(diskKey)), Named: []wire.NamedSecret{{Name: "db.password", Value: secret.Copy([]byte(password))}}}); err != nil {
		return err
	}
	appraiser, err := server.NewSNPAppraiser(ctx, state, func() (*appraise.Roots, error) { return appraise.NewRoots() }, nil)
	if err != nil {
		return err
	}
	srv, err := server.New(ctx, server.Options{State: state, Appraiser: appraiser, Limits: server.Limits{PeerBurst: 1000, PeerRate: 1000, IDBurst: 1000}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	junk, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	shm, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		return err
	}
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(sctx, l) }()
	go answerJunk(junk)
	env.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		junk.Close()
		state.Close()
		os.RemoveAll(shm)
	})
	other := srv.Pin()
	other[0] ^= 1
	for name, value := range map[string]string{
		"SERVER": "tcp://" + l.Addr().String(), "PIN": srv.Pin().String(), "OTHER_PIN": other.String(), "JUNK": "tcp://" + junk.Addr().String(),
		"SHM": shm, "DISK": testenv.Root(),
		"TEST_CHIP": chipDir, "TEST_ID": "instance", "TEST_MEASUREMENT": measured, "TEST_REPORT_ID": "boot 1",
	} {
		env.Setenv(name, value)
	}
	return nil
}

// answerJunk is a server of another kind.
func answerJunk(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		c.Close()
	}
}
