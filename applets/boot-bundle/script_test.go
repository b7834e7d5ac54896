package bootbundle_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/bundle"
)

func TestMain(m *testing.M) {
	run := func() { os.Exit(applets.Main(os.Args)) }
	testscript.Main(m, map[string]func(){"attestbox": run, "boot-bundle": run})
}

func TestScripts(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEY", hex.EncodeToString(key.Public().(ed25519.PublicKey)))
			for name, version := range map[string]uint64{"web-3.bundle": 3, "web-2.bundle": 2} {
				parts := [][]byte{[]byte("kernel"), []byte("initramfs"), []byte("init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume")}
				h := &bundle.Header{Name: "web", Version: version, KernelRelease: "6.16.3", Kernel: bundle.PartOf(parts[0]), Initrd: bundle.PartOf(parts[1]), Cmdline: bundle.PartOf(parts[2])}
				b, err := bundle.Sign(key, h)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), append(b, bytes.Join(parts, nil)...), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "flip": flip},
	})
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// flip FILE changes one bit near its end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)-5] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}
