package server_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/testenv"
)

func TestMain(m *testing.M) {
	main := func() { os.Exit(applets.Main(os.Args)) }
	all := map[string]func(){"attestbox": main}
	for _, name := range []string{"server", "policy-server", "key-server", "verifier", "policy", "certify", "fetch-secret", "cryptstore"} {
		all[name] = main
	}
	testscript.Main(m, all)
}

// The scripts run a domain as its owner does, with simulated enclaves: every
// program is the real one.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			run, err := os.MkdirTemp("/dev/shm", "server-test-*")
			if err != nil {
				testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
			}
			env.Defer(func() { os.RemoveAll(run) })
			seal := make([]byte, 32)
			rand.Read(seal)
			if err := os.WriteFile(filepath.Join(env.WorkDir, "seal.key"), seal, 0o600); err != nil {
				return err
			}
			// What a simulated enclave measures of every program here.
			exe, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				return err
			}
			sum := sha256.Sum256(exe)
			env.Setenv("SELF", hex.EncodeToString(sum[:]))
			env.Setenv("RUN", run)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "flip": flip, "address": address, "keypair": keypair},
	})
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// keypair NAME writes an Ed25519 key to NAME.pem, PKCS #8, and NAME.pub.
func keypair(ts *testscript.TestScript, _ bool, args []string) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	public, err := x509.MarshalPKIXPublicKey(pub)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))
}

// address VARIABLE FILE waits for a ready file and sets the variable to its line.
func address(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", "-c", `n=0; until [ -s "$1" ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done`, "address", args[1]))
	ts.Setenv(args[0], string([]byte(ts.ReadFile(args[1]))[:len(ts.ReadFile(args[1]))-1]))
}
