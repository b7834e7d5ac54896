package fetchsecret_test

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/internal/admission"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

type keyServer struct{}

// The scripts certify themselves as a simulated enclave and ask a key server of
// a few lines; what the real one allows is tested in package server.
func TestKeyScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "keys"),
		Setup: func(env *testscript.Env) error { return keyWorld(t, env) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"server-put": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value(keyServer{}).(*domaintest.KeyServer).Put(args[0], []byte(args[1]))
			},
			"server-refuses": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value(keyServer{}).(*domaintest.KeyServer).Answer = func(*admission.Identity, *wire.KeyRequest) *wire.KeyReply {
					return &wire.KeyReply{Code: "secret-refused"}
				}
			},
			"await": await,
		},
	})
}

// await FILE TEXT waits until the file holds the text.
func await(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && string(b) == args[1] {
			return
		}
	}
	ts.Fatalf("%s does not hold %q", args[0], args[1])
}

func keyWorld(t *testing.T, env *testscript.Env) error {
	d := domaintest.New(t, "a.example", time.Now())
	ps, ks := d.NewPolicyServer(t), d.NewKeyServer(t, time.Now())
	impostor := d.NewKeyServer(t, time.Now())
	impostor.Cert = d.Member(t, d.Identity(3, 3), time.Now(), time.Hour)
	env.Values[keyServer{}] = ks
	run, err := os.MkdirTemp("/dev/shm", "fetch-test-*")
	if err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	env.Defer(func() { os.RemoveAll(run) })
	key, _, err := simenclave.GenerateKey()
	if err != nil {
		return err
	}
	defer key.Zero()
	if err := os.WriteFile(filepath.Join(env.WorkDir, "enclave.key"), key.Bytes(), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "policy.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Policy.Raw}), 0o600); err != nil {
		return err
	}
	env.Setenv("SERVER", ps.Listen())
	env.Setenv("PIN", ps.Pin().String())
	env.Setenv("KEYS", ks.Listen())
	env.Setenv("IMPOSTOR", impostor.Listen())
	env.Setenv("RUN", run)
	env.Setenv("TEST_CHIP", "")
	return nil
}
