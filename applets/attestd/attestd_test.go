package attestd

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/member"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
	"attestbox/internal/wire"
)

func TestMain(m *testing.M) {
	main := func(a applet.Applet) func() {
		return func() {
			env := applet.OSEnv(a.Name)
			err := a.Run(context.Background(), env, os.Args[1:])
			applet.Print(env.Stderr, env.Name, err)
			os.Exit(applet.ExitCode(err))
		}
	}
	testscript.Main(m, map[string]func(){"attestd": main(Applet), "attestd-client": main(Client)})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// A socket's path is at most 107 bytes long.
			dir, err := os.MkdirTemp("/tmp", "attestd-test-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("S", filepath.Join(dir, "s"))
			key, _, err := simenclave.GenerateKey()
			if err != nil {
				return err
			}
			defer key.Zero()
			for name, b := range map[string][]byte{"platform.key": key.Bytes(), "large": make([]byte, 40000)} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "serve": serveInScript},
	})
}

// exits N COMMAND... runs a command and wants this exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// ready is a stderr that says when a line of it begins with a text.
type ready struct {
	bytes.Buffer
	text string
	c    chan struct{}
}

func (r *ready) Write(b []byte) (int, error) {
	if r.c != nil && strings.Contains(string(b), r.text) {
		close(r.c)
		r.c = nil
	}
	return len(b), nil
}

// serve ARGS... runs attestd in this process until the script ends.
func serveInScript(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithCancel(context.Background())
	up := make(chan struct{})
	done := make(chan error, 1)
	for i, a := range args {
		if a == "platform.key" {
			args[i] = ts.MkAbs(a)
		}
	}
	env := &applet.Env{Name: "attestd", Stdout: os.Stdout, Stderr: &ready{text: "listening on", c: up}, Getenv: os.Getenv}
	go func() { done <- run(ctx, env, args) }()
	select {
	case <-up:
	case err := <-done:
		ts.Fatalf("attestd: %v", err)
	}
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("attestd: %v", err)
		}
	})
}

// machine is a VM on a simulated chip, with a disk and a policy server.
type machine struct {
	t    *testing.T
	dir  string
	ps   *domaintest.PolicyServer
	v    *vault
	host *snpsim.Guest
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	d := domaintest.New(t, "a.example", time.Now())
	m.ps = d.NewPolicyServer(t)
	m.host = snpsimtest.PSP(t, snp.Milan).Launch(snpsim.GuestConfig{Measurement: [48]byte{5}, HostData: [32]byte{7}})
	policy := filepath.Join(m.dir, "policy.crt")
	if err := os.WriteFile(policy, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Policy.Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	m.v = m.vault(policy)
	return m
}

func (m *machine) vault(policy string) *vault {
	v, err := newVault(&options{policy: policy, store: filepath.Join(m.dir, "store")}, m.host.Platform())
	if err != nil {
		m.t.Fatal(err)
	}
	v.cfg.RunDir, v.cfg.Floor = filepath.Join(m.dir, "run"), filepath.Join(m.dir, "floor")
	m.t.Cleanup(v.close)
	return v
}

// certify is what the applet certify does.
func (m *machine) certify() string {
	m.t.Helper()
	cfg := m.v.cfg
	cfg.OpenStore = func() (store.Store, error) { return onefile.Open(filepath.Join(m.dir, "store")) }
	mem, res, err := member.Certify(m.t.Context(), cfg, member.Request{Force: true, Client: client.Config{
		Servers: []string{"tcp://a:1"}, Pins: []wire.Pin{m.ps.Pin()}, Platform: m.host.Platform(), Dial: m.ps.Dial,
	}})
	if err != nil {
		m.t.Fatal(err)
	}
	mem.Close()
	return res.Store
}

// attestd starts before certify; its key stays the same over restarts and
// renewals, and is another one in another store.
func TestVault(t *testing.T) {
	m := newMachine(t)
	ctx := t.Context()
	if _, err := m.v.root(ctx); !errors.Is(err, member.ErrNoShare) {
		t.Errorf("before certify: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "store")); err == nil {
		t.Error("attestd made a store")
	}
	m.certify()
	root, err := m.v.root(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Zero()
	key, chain, err := m.v.identity(ctx)
	if err != nil || key == nil || len(chain) != 2 {
		t.Fatalf("identity: %v, %d certificates, %v", key, len(chain), err)
	}
	same := func(what string, v *vault, want bool) {
		t.Helper()
		again, err := v.root(ctx)
		if err != nil || again.Equal(root) != want {
			t.Errorf("%s: the same root: %v, %v; want %v", what, again.Equal(root), err, want)
		}
		again.Zero()
	}
	same("again", m.v, true)
	m.certify()
	same("renewed", m.v, true)
	if _, renewed, err := m.v.identity(ctx); err != nil || bytes.Equal(renewed[0], chain[0]) {
		t.Errorf("the renewed certificate is not seen: %v", err)
	}
	same("restarted", m.vault(filepath.Join(m.dir, "policy.crt")), true)

	// The store is lost; certify makes another while attestd runs.
	if err := os.Rename(filepath.Join(m.dir, "store"), filepath.Join(m.dir, "lost")); err != nil {
		t.Fatal(err)
	}
	if got := m.certify(); !strings.HasPrefix(got, "created") {
		t.Errorf("store: %s", got)
	}
	same("another store", m.v, false)
}

func TestPolicyFile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty":   "",
		"garbage": "garbage",
		"key":     "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"der":     "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newVault(&options{policy: path, store: "s"}, nil); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGroup(t *testing.T) {
	for name, want := range map[string]int{"": -1, "7": 7, "root": 0} {
		if got, err := groupID(name); err != nil || got != want {
			t.Errorf("%q: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"no-such-group", "-1", "99999999999"} {
		if got, err := groupID(name); err == nil {
			t.Errorf("%q is group %d", name, got)
		}
	}
}
