package certify_test

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/testenv"
	"attestbox/internal/wire"
)

func TestMain(m *testing.M) {
	main := func() { os.Exit(applets.Main(os.Args)) }
	testscript.Main(m, map[string]func(){"attestbox": main, "certify": main})
}

// The scripts act on a simulated enclave and a scripted policy server; what the
// real one decides is tested in package server.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error { return world(t, env) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "answer": answer, "tamper": tamper,
		},
	})
}

type serverKey struct{}

func world(t *testing.T, env *testscript.Env) error {
	d := domaintest.New(t, "a.example", time.Now())
	ps := d.NewPolicyServer(t)
	env.Values[serverKey{}] = ps
	run, err := os.MkdirTemp("/dev/shm", "certify-test-*")
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
	policy := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Policy.Raw})
	if err := os.WriteFile(filepath.Join(env.WorkDir, "policy.crt"), policy, 0o600); err != nil {
		return err
	}
	env.Setenv("SERVER", ps.Listen())
	env.Setenv("PIN", ps.Pin().String())
	env.Setenv("RUN", run)
	return nil
}

// answer refused|later|admit says what the server does from now on.
func answer(ts *testscript.TestScript, _ bool, args []string) {
	ps := ts.Value(serverKey{}).(*domaintest.PolicyServer)
	switch args[0] {
	case "refused":
		ps.SetAnswer(func(int) wire.Message { return &wire.Refused{Code: "launch-refused"} })
	case "later":
		ps.SetAnswer(func(int) wire.Message { return &wire.Later{Code: "launch-later", Seconds: 1} })
	default:
		ps.SetAnswer(nil)
	}
}

// tamper FILE flips a bit in the middle of a file.
func tamper(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}
