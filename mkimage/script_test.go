package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/image/imagetest"
	"attestbox/internal/measure"
	"attestbox/internal/testenv"
	"attestbox/internal/uki/ukitest"
)

func TestMain(m *testing.M) {
	attestbox := func() { os.Exit(applets.Main(os.Args)) }
	testscript.Main(m, map[string]func(){"mkimage": func() { os.Exit(mkimage()) },
		"policy": attestbox, "snp-sim": attestbox, "verifier": attestbox})
}

// The scripts begin with the inputs of an image in $WORK.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			imagetest.Inputs(t, env.WorkDir)
			firmware := measure.SyntheticFirmware()
			if err := os.WriteFile(env.WorkDir+"/synthetic-firmware", firmware, 0o600); err != nil {
				return err
			}
			firmware[1] ^= 1 // stands in for a real one, which the synthetic bytes never do
			if err := os.WriteFile(env.WorkDir+"/firmware", firmware, 0o600); err != nil {
				return err
			}
			firmware[0] ^= 1
			if err := os.WriteFile(env.WorkDir+"/other-firmware", firmware, 0o600); err != nil {
				return err
			}
			if err := os.WriteFile(env.WorkDir+"/stub", ukitest.Stub(), 0o600); err != nil {
				return err
			}
			// Not in the script's file: no private key lies in the repository.
			key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: make([]byte, 48)})
			if err := os.WriteFile(env.WorkDir+"/key.pem", key, 0o600); err != nil {
				return err
			}
			run, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
			if err != nil {
				testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
			}
			env.Defer(func() { os.RemoveAll(run) })
			env.Setenv("RUN", run)
			env.Setenv("MODULES", env.WorkDir+"/lib/modules/"+imagetest.Release)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"flip": flip, "documented": documented, "exits": exits, "signer": signer},
	})
}

// documented HEADING runs the first block of commands behind a line of
// docs/launch.md. What differs is said here: where the passphrase lies.
func documented(ts *testscript.TestScript, _ bool, args []string) {
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "launch.md"))
	ts.Check(err)
	_, rest, ok := strings.Cut(string(page), args[0]+"\n")
	_, rest, ok2 := strings.Cut(rest, "\n```\n")
	block, _, ok3 := strings.Cut(rest, "\n```\n")
	if !ok || !ok2 || !ok3 {
		ts.Fatalf("docs/launch.md has no commands behind %q", args[0])
	}
	block = strings.ReplaceAll(block, "/media/usb/passphrase", "passphrase")
	ts.Check(ts.Exec("sh", "-ec", block))
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o644))
}

// signer VARIABLE sets it to the public key of $RUN/bundle.key.
func signer(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(ts.Getenv("RUN") + "/bundle.key")
	ts.Check(err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ts.Check(err)
	ts.Setenv(args[0], hex.EncodeToString(key.(ed25519.PrivateKey).Public().(ed25519.PublicKey)))
}

// exits N COMMAND... runs a command and wants this exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...)
	ts.Check(err)
}
