package image

import (
	"errors"
	"strings"
	"testing"

	"attestbox/initramfs/config"
)

const requiredLine = "init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume rng_core.default_quality=0 systemd.import_credentials=no systemd.gpt_auto=no efi=noruntime"

func TestCmdline(t *testing.T) {
	for in, want := range map[string]string{
		"":                                requiredLine,
		"console=ttyS0":                   "console=ttyS0 " + requiredLine,
		"  console=ttyS0   quiet ":        "console=ttyS0 quiet " + requiredLine,
		"panic=1 quiet":                   "panic=1 quiet init_on_free=1 sysctl.kernel.sysrq=0 noresume rng_core.default_quality=0 systemd.import_credentials=no systemd.gpt_auto=no efi=noruntime",
		requiredLine:                      requiredLine,
		"attestbox.net=dhcp":              "attestbox.net=dhcp " + requiredLine,
		"attestbox.loglevel=debug":        "attestbox.loglevel=debug " + requiredLine,
		"panic_on_oops=1 mitigations=off": "panic_on_oops=1 mitigations=off " + requiredLine,
	} {
		if got, err := Cmdline(in); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		"init_on_free=0", "init-on-free=0", "init_on_free=1 init_on_free=0", "init_on_free", "INIT_ON_FREE=0",
		"sysctl.kernel.sysrq=1", "sysctl.kernel/sysrq=1", "sysctl/kernel/sysrq=1", "sysrq_always_enabled", "sysrq-always-enabled=1",
		"panic=0", "panic=-1", "sysctl.kernel.panic=0", "noresume=0", "resume=/dev/vda", "resume_offset=1",
		"rng_core.default_quality=1000", "rng-core.default-quality=1000",
		"init=/bin/sh", "rdinit=/bin/sh", "noinitrd", "initrd=0x1,2", "kgdboc=ttyS0", "kgdbwait",
		"attestbox.server=x", "attestbox.pin=x", "attestbox.debug", "attestbox-net=dhcp", "attestbox.net=bad=",
		"quiet -- panic=1", `x="a b"`, "a\nb", "a\x00b", "a\tb", "ü", strings.Repeat("a", 2048), strings.Repeat("a", 2000),
		"systemd.debug_shell", "root=/dev/vda", "GODEBUG=x", "LD_PRELOAD=x",
	} {
		if got, err := Cmdline(bad); !errors.Is(err, ErrCmdline) {
			t.Errorf("%.60q: accepted as %q, %v", bad, got, err)
		}
	}
}

// What comes out is what init takes, and is its own result.
func FuzzCmdline(f *testing.F) {
	for _, s := range []string{"", "console=ttyS0 quiet", requiredLine, "sysctl.kernel/sysrq=1", "a -- b", "attestbox.net=10.0.0.2/24,gw=10.0.0.1", `a="b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := Cmdline(in)
		if err != nil {
			return
		}
		if again, err := Cmdline(out); err != nil || again != out {
			t.Fatalf("%q gives %q, which gives %q, %v", in, out, again, err)
		}
		if _, err := config.CheckCommandLine(out); err != nil {
			t.Fatalf("init refuses %q: %v", out, err)
		}
	})
}
