package snpsimdevice

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestbox/internal/applet"
)

// What it does as PID 1 is tested in a real kernel, see
// internal/snpsim/cuse/boot_test.go. Elsewhere it does nothing.
func TestOutsideAnImage(t *testing.T) {
	for _, args := range [][]string{nil, {daemonArg}} {
		var talk bytes.Buffer
		env := &applet.Env{Name: "snp-sim-device", Stdout: &talk, Stderr: &talk}
		err := Applet.Run(t.Context(), env, args)
		applet.Print(&talk, env.Name, err)
		if applet.ExitCode(err) != applet.ExitFailure || !strings.Contains(talk.String(), "/init of simulator images") {
			t.Errorf("%q: %v\n%s", args, err, talk.String())
		}
	}
}

func TestModuleList(t *testing.T) {
	got, err := parseModuleList("kernel/fs/fuse/fuse.ko\nkernel/fs/fuse/cuse.ko.xz\n")
	if err != nil || !slices.Equal(got, []string{"kernel/fs/fuse/fuse.ko", "kernel/fs/fuse/cuse.ko.xz"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"/etc/x.ko\n", "../x.ko\n", "a/../../x.ko\n", "a//x.ko\n", "\n", "a.ko\n\n", "./a.ko\n"} {
		if got, err := parseModuleList(bad); err == nil {
			t.Errorf("%q accepted as %q", bad, got)
		}
	}
	root := t.TempDir()
	if err := loadModules(root); err != nil {
		t.Errorf("no list: %v", err)
	}
	os.MkdirAll(filepath.Join(root, "etc/snp-sim"), 0o755)
	os.WriteFile(filepath.Join(root, ModuleList), []byte("kernel/none.ko\n"), 0o644)
	if err := loadModules(root); err == nil || !strings.Contains(err.Error(), "kernel/none.ko") {
		t.Errorf("a missing module: %v", err)
	}
}

func FuzzModuleList(f *testing.F) {
	f.Add("kernel/fs/fuse/cuse.ko\n")
	f.Add("../x\n")
	f.Fuzz(func(t *testing.T, list string) {
		paths, err := parseModuleList(list)
		if err != nil {
			return
		}
		for _, p := range paths {
			if !strings.HasPrefix(filepath.Join("/lib/modules/6", p), "/lib/modules/6") {
				t.Errorf("%q leaves the folder", p)
			}
		}
		if joined := strings.Join(paths, "\n"); joined != strings.TrimSuffix(list, "\n") {
			t.Errorf("%q became %q", list, paths)
		}
	})
}
