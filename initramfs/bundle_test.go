package initramfs

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/bundle"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

var bundleKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

const bundleLine = "console=ttyS0 init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume"

// testBundle is a signed bundle; edit changes what is signed.
func testBundle(t *testing.T, edit func(*bundle.Header)) []byte {
	t.Helper()
	parts := [][]byte{[]byte("KERNEL"), []byte("INITRAMFS"), []byte(bundleLine)}
	h := &bundle.Header{Name: "web", Version: 5, KernelRelease: "6.13", Kernel: bundle.PartOf(parts[0]), Initrd: bundle.PartOf(parts[1]), Cmdline: bundle.PartOf(parts[2])}
	if edit != nil {
		edit(h)
	}
	b, err := bundle.Sign(bundleKey, h)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, bytes.Join(parts, nil)...)
}

// sealedText is what a memory file holds, if nobody can change it any more.
func sealedText(f *os.File) string {
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || got != seals {
		return fmt.Sprintf("NOT SEALED (%#x, %v)", got, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		return "WRITABLE"
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// stage1 is an Init of mode bundle with this on its disk.
func stage1(t *testing.T, disk []byte) (*Init, *fakeSystem, *strings.Builder) {
	t.Helper()
	in, sys, out := fakeInit(t)
	var err error
	in.cfg, err = config.Parse([]byte(stage1Config))
	if err != nil {
		t.Fatal(err)
	}
	put(t, in, "/dev/vda", string(disk))
	in.deps.waitDevice = func(context.Context, string) error { return nil }
	in.deps.Open = func() (platform.Platform, error) { return noPlatform{}, nil }
	in.deps.Approve = func(_ context.Context, _ *Init, _ platform.Platform, digest wire.Hex32, version uint64) (*client.Approval, error) {
		sys.note("approve %d", version)
		return &client.Approval{Server: "fake", Time: sys.now}, nil
	}
	return in, sys, out
}

var stage1Config = `{"mode":"bundle","servers":["vsock://2:8451"],"pins":["` + testPin + `"],"network":{"method":"none"},
 "bundle":{"device":"/dev/vda","key":"` + hex.EncodeToString(bundleKey.Public().(ed25519.PublicKey)) + `","name":"web","min_version":3}}`

// What is verified, approved and started is one and the same, in this order.
func TestBundleIsStarted(t *testing.T) {
	in, sys, out := stage1(t, append(testBundle(t, nil), make([]byte, 500)...))
	wantCode(t, in.bootBundle(t.Context()), code.BootBundle) // the fake came back from the other kernel
	want := []string{"approve 5", fmt.Sprintf("kexec load KERNEL INITRAMFS %q", bundleLine), "kexec start"}
	if !slices.Equal(sys.calls, want) {
		t.Errorf("calls %q, want %q", sys.calls, want)
	}
	for _, line := range []string{"bundle: web version 5, ", "attest: approved by fake", "kexec: starting web version 5"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line with %q:\n%s", line, out)
		}
	}
}

// The applet ends as init does, when a bundle is refused and when a call of it
// never comes back.
func TestBundleAlone(t *testing.T) {
	for _, back := range []bool{false, true} {
		want := []string{"random", "sync", "poweroff"}
		if back {
			want = want[:1]
		}
		in, sys, out := stage1(t, make([]byte, 4096))
		wantCode(t, in.bundleAlone(t.Context(), in.cfg, back), code.BundleMalformed)
		if !slices.Equal(sys.calls, want) || strings.Contains(out.String(), string(code.BundleMalformed)) == back {
			t.Errorf("return %v: calls %q\n%s", back, sys.calls, out)
		}
		synctest.Test(t, func(t *testing.T) {
			in, sys, _ := stage1(t, testBundle(t, nil))
			hold := make(chan struct{})
			in.deps.Open = func() (platform.Platform, error) { <-hold; return noPlatform{}, nil }
			wantCode(t, in.bundleAlone(t.Context(), in.cfg, back), code.BootTimeout)
			synctest.Wait() // it noted its calls in a goroutine that nobody waits for
			if !slices.Equal(sys.calls, want) {
				t.Errorf("stuck, return %v: calls %q", back, sys.calls)
			}
			close(hold)
			synctest.Wait()
			if slices.Contains(sys.calls, "kexec start") {
				t.Errorf("it went on: %q", sys.calls)
			}
		})
	}
}

// Whatever is wrong with a bundle, nobody is asked and nothing is started.
func TestBundleRefused(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	other := ed25519.NewKeyFromSeed(make([]byte, 32))
	for what, tc := range map[string]struct {
		sign func(*bundle.Header)
		edit func([]byte) []byte
		want code.Code
	}{
		"no bundle at all":     {nil, func(b []byte) []byte { return make([]byte, len(b)) }, code.BundleMalformed},
		"cut":                  {nil, func(b []byte) []byte { return b[:len(b)-1] }, code.BundleMalformed},
		"empty disk":           {nil, func([]byte) []byte { return nil }, code.BundleMalformed},
		"header changed":       {nil, flip(30), code.BundleSignature},
		"kernel changed":       {nil, func(b []byte) []byte { return bytes.Replace(b, []byte("KERNEL"), []byte("KERNEl"), 1) }, code.BundleSignature},
		"initramfs changed":    {nil, func(b []byte) []byte { return bytes.Replace(b, []byte("INIT"), []byte("INIt"), 1) }, code.BundleSignature},
		"command line changed": {nil, flip(-1), code.BundleSignature},
		"below the minimum":    {func(h *bundle.Header) { h.Version = 2 }, nil, code.BundleVersion},
		"another name":         {func(h *bundle.Header) { h.Name = "db" }, nil, code.BundleVersion},
		"signed by another key": {nil, func(b []byte) []byte {
			r, err := bundle.Open(bytes.NewReader(b), bundleKey.Public().(ed25519.PublicKey))
			if err != nil {
				t.Fatal(err)
			}
			h := r.Header()
			forged, err := bundle.Sign(other, &h)
			if err != nil {
				t.Fatal(err)
			}
			return append(forged, b[len(forged):]...)
		}, code.BundleSignature},
		"command line without init_on_free": {func(h *bundle.Header) { h.Cmdline = bundle.PartOf([]byte("console=ttyS0")) }, func(b []byte) []byte {
			return bytes.Replace(b, []byte(bundleLine), []byte("console=ttyS0"), 1)
		}, code.BootParameter},
	} {
		b := testBundle(t, tc.sign)
		if tc.edit != nil {
			b = tc.edit(b)
		}
		in, sys, _ := stage1(t, b)
		err := in.bootBundle(t.Context())
		if c, _ := code.Of(err); err == nil || c != tc.want || len(sys.calls) != 0 {
			t.Errorf("%s: %v with code %q, want %q; calls %q", what, err, c, tc.want, sys.calls)
		}
	}
}

// Without a go nothing is loaded, and the machine goes off.
func TestBundleWithoutGo(t *testing.T) {
	for _, why := range []error{
		code.Wrap(code.BundleRefused, fmt.Errorf("%w: %w", client.ErrRefused, &wire.AnswerError{Exchange: wire.ExchangeID{0xab}, Code: code.BundleRefused})),
		code.Wrap(code.Unreachable, client.ErrUnreachable),
		code.Wrap(code.PinMismatch, errors.New("another key")),
	} {
		in, sys, out := stage1(t, testBundle(t, nil))
		in.deps.Approve = func(context.Context, *Init, platform.Platform, wire.Hex32, uint64) (*client.Approval, error) {
			return nil, why
		}
		in.finish(in.bootBundle(t.Context()))
		if !slices.Equal(sys.calls, []string{"sync", "poweroff"}) {
			t.Errorf("%v: calls %q", why, sys.calls)
		}
		if c, _ := code.Of(why); !strings.Contains(out.String(), "boot failed: ") || !strings.Contains(out.String(), "["+string(c)+"]") {
			t.Errorf("%v: said %q", why, out)
		}
	}
}

// Dates are judged by the verifier's clock, not by the one that the host set.
func TestBundleDates(t *testing.T) {
	b := testBundle(t, func(h *bundle.Header) { h.NotBefore, h.NotAfter = 1_800_000_000, 1_800_001_000 })
	for at, ok := range map[int64]bool{1_799_999_999: false, 1_800_000_000: true, 1_800_001_000: true, 1_800_001_001: false} {
		in, sys, _ := stage1(t, b)
		in.deps.Approve = func(context.Context, *Init, platform.Platform, wire.Hex32, uint64) (*client.Approval, error) {
			return &client.Approval{Time: time.Unix(at, 0)}, nil
		}
		sys.now = time.Unix(1_800_000_500, 0)
		err := in.bootBundle(t.Context())
		want := code.BundleVersion
		if ok {
			want = code.BootBundle
		}
		wantCode(t, err, want)
		if started := slices.Contains(sys.calls, "kexec start"); started != ok {
			t.Errorf("at %d: started %v", at, started)
		}
	}
}

// A boot that ran out of time starts nothing, and neither does one whose kernel
// does not load.
func TestBundleTooLate(t *testing.T) {
	in, sys, _ := stage1(t, testBundle(t, nil))
	ctx, cancel := context.WithCancelCause(t.Context())
	approve := in.deps.Approve
	in.deps.Approve = func(c context.Context, in *Init, p platform.Platform, d wire.Hex32, v uint64) (*client.Approval, error) {
		cancel(code.Wrap(code.BootTimeout, errors.New("not up in time")))
		return approve(c, in, p, d, v)
	}
	wantCode(t, in.bootBundle(ctx), code.BootTimeout)
	if slices.Contains(sys.calls, "kexec start") {
		t.Errorf("calls %q", sys.calls)
	}
	in, sys, _ = stage1(t, testBundle(t, nil))
	sys.fail["kexec load"] = unix.EPERM
	wantCode(t, in.bootBundle(t.Context()), code.BootBundle)
	if slices.Contains(sys.calls, "kexec start") {
		t.Errorf("calls %q", sys.calls)
	}
}

// Only a stage 1 leaves kexec on.
func TestKexecOff(t *testing.T) {
	const file = "/proc/sys/kernel/kexec_load_disabled"
	for _, mode := range []string{"run", "bundle"} {
		in, _, _ := stage1(t, nil)
		put(t, in, file, "0\n")
		in.deps.network = func(context.Context) (string, error) { return "none", nil }
		if mode == "run" {
			in.cfg, _ = config.Parse([]byte(programsConfig(program("a", "x", "root", "never", true, ""))))
		}
		_ = in.bootUp(t.Context())
		b, err := os.ReadFile(filepath.Join(in.root, file))
		if want := map[string]string{"run": "1\n", "bundle": "0\n"}[mode]; err != nil || string(b) != want {
			t.Errorf("mode %s: %q, %v", mode, b, err)
		}
	}
}
