package servercmd

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
)

// The state of a server that runs in an attested VM opens in that VM alone.
func TestStateOfAVM(t *testing.T) {
	ctx := t.Context()
	psp := snpsimtest.PSP(t, snp.Genoa)
	base := snpsim.GuestConfig{Measurement: [48]byte{1}, HostData: [32]byte{7}}
	dir := filepath.Join(t.TempDir(), "state")
	var talk bytes.Buffer
	env := &applet.Env{Name: "verifier", Stdin: strings.NewReader(""), Stdout: &talk, Stderr: &talk, Getenv: func(string) string { return "" }}
	in := func(f func(*snpsim.GuestConfig)) *StateFlags {
		c := base
		f(&c)
		g := psp.Launch(c)
		return &StateFlags{Dir: dir, Platform: "snp", snp: func() (platform.Platform, error) { return g.Platform(), nil }}
	}
	create := func(sf *StateFlags) (*server.State, error) {
		key, err := sf.Key(env)
		if err != nil {
			t.Fatal(err)
		}
		return CreateState(ctx, sf.Dir, func(raw store.Store) (*server.State, error) {
			return server.CreateState(context.WithoutCancel(ctx), raw, key, server.Config{}, time.Now())
		})
	}
	debug := func(c *snpsim.GuestConfig) { c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug) }

	_, err := create(in(debug))
	if c, _ := code.Of(err); applet.ExitCode(err) != applet.ExitRefused || c != code.SealKey {
		t.Errorf("a state made in a debug VM: %v", err)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		t.Errorf("%d files are left in %s", len(entries), dir)
	}
	st, err := create(in(func(*snpsim.GuestConfig) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, pin, err := st.Certificate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()

	if st, err = in(func(*snpsim.GuestConfig) {}).Open(ctx, env); err != nil {
		t.Fatal(err)
	}
	if _, again, err := st.Certificate(ctx); err != nil || again != pin {
		t.Errorf("pin %v, %v", again, err)
	}
	st.Close()
	for name, f := range map[string]func(*snpsim.GuestConfig){
		"other measurement": func(c *snpsim.GuestConfig) { c.Measurement[0]++ },
		"debug policy":      debug,
		"other instance":    func(c *snpsim.GuestConfig) { c.HostData[0]++ },
	} {
		_, err := in(f).Open(ctx, env)
		if c, _ := code.Of(err); applet.ExitCode(err) != applet.ExitRefused || c != code.SealKey {
			t.Errorf("%s: %v, want exit %d and code %s", name, err, applet.ExitRefused, code.SealKey)
		}
	}
	other, err := psp.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	g := other.Launch(base)
	_, err = (&StateFlags{Dir: dir, Platform: "snp", snp: func() (platform.Platform, error) { return g.Platform(), nil }}).Open(ctx, env)
	if applet.ExitCode(err) != applet.ExitRefused {
		t.Errorf("other chip: %v", err)
	}
}
