package unlockluks_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
)

func TestMain(m *testing.M) {
	run := func() { os.Exit(applets.Main(os.Args)) }
	testscript.Main(m, map[string]func(){"attestbox": run, "unlock-luks": run})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			if err := newDisk(env.WorkDir, "disk", "01234567-89ab-cdef-0123-456789abcdef"); err != nil {
				return err
			}
			return newDisk(env.WorkDir, "other", "11234567-89ab-cdef-0123-456789abcdef")
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// newDisk writes NAME.img, NAME.json and NAME.key.
func newDisk(dir, name, uuid string) error {
	key := secret.Random(32)
	defer key.Zero()
	header, v, rec, err := luks.Format(key, luks.Params{UUID: uuid, Integrity: luks.IntegrityNone})
	if err != nil {
		return err
	}
	v.Close()
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	for ext, b := range map[string][]byte{".img": append(header, make([]byte, 1<<20)...), ".json": append(text, '\n'), ".key": key.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name+ext), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
