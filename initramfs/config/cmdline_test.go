package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"attestbox/internal/code"
)

const goodLine = "console=ttyS0 init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume rng_core.default_quality=0 systemd.import_credentials=no systemd.gpt_auto=no efi=noruntime"

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		extra string
		want  Overrides
	}{
		{"", Overrides{LogLevel: LogInfo}},
		{" attestbox.loglevel=debug\n", Overrides{LogLevel: LogDebug}},
		{" attestbox.net=none", Overrides{LogLevel: LogInfo, Network: &Network{Method: None}}},
		{` "attestbox.net=dhcp,dev=eth1"`, Overrides{LogLevel: LogInfo, Network: &Network{Method: DHCP, Interface: "eth1"}}},
		{` attestbox.net="10.0.2.15/24,gw=10.0.2.2,dns=10.0.2.3"`, Overrides{LogLevel: LogInfo,
			Network: &Network{Method: Static, Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}}},
		{" panic=1 quiet earlyprintk=ttyS0", Overrides{LogLevel: LogInfo}},
		{" initrd=initrd", Overrides{LogLevel: LogInfo}},
	} {
		got, err := CheckCommandLine(goodLine + tt.extra)
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%q: %+v, %v", tt.extra, got, err)
		}
	}
}

func TestForbiddenWords(t *testing.T) {
	for _, w := range []string{
		"attestbox.server=tcp://6.6.6.6:8451", "attestbox.pin=sha256:00", "attestbox.id=00", "attestbox.device=/dev/vdb",
		"attestbox.header=/dev/vdc", "attestbox.debug", "attestbox.debug=1", "attestbox", "Attestbox.net=none", "attestbox-net=none",
		"attestbox.net", "attestbox.net=", "attestbox.net=dhcp,dev=a,dev=b", "attestbox.net=none,dev=eth0", "attestbox.net=dhcp,ns=1",
		"attestbox.net=none attestbox.net=none", "attestbox.loglevel=7", "attestbox.loglevel", `"attestbox.debug=a b"`,
		"init=/bin/sh", `"init=/bin/sh"`, `init="/bin/sh"`, "rdinit=/bin/sh", "root=/dev/vdb", "rootflags=x", "resume=/dev/vdb", "single", "S", "1",
		"emergency", "rd.break", "rd.luks.uuid=1", "cryptopts=source=/dev/vda", "systemd.debug_shell", "systemd.debug-shell=1", "systemd.unit=rescue.target",
		"snp_sim.x", "snp-sim=1", "systemd.import_credentials=yes", "systemd.import-credentials=1", "systemd.gpt_auto", "efi=runtime", "initrd=other", "initrd", "GODEBUG=tlsmlkem=0", "GOTRACEBACK=crash", "LD_PRELOAD=/x",
		"sysctl.kernel.sysrq=1", "sysctl.kernel.sysrq=0x1", "sysctl/kernel/sysrq=1", "sysctl.kernel/sysrq=1", "-- x", "--", "panic=0", "panic", "init_on_free=0", "init-on-free=0", "noresume=0", "rng_core.default_quality=1000",
		"sysrq_always_enabled", `a"b c"d`, `"unclosed`, "caf\u00e9", "a\x00b",
	} {
		_, err := CheckCommandLine(goodLine + " " + w)
		c, _ := code.Of(err)
		if !errors.Is(err, ErrOverride) || c != code.BootOverride {
			t.Errorf("%q: error %v, code %q", w, err, c)
		}
	}
}

func TestMissingWords(t *testing.T) {
	for _, w := range Required {
		for _, line := range []string{strings.Replace(goodLine, w, "", 1), strings.Replace(goodLine, w, "x"+w, 1)} {
			_, err := CheckCommandLine(line)
			c, _ := code.Of(err)
			if !errors.Is(err, ErrMissing) || c != code.BootParameter || !strings.Contains(err.Error(), w) {
				t.Errorf("without %s: error %v, code %q", w, err, c)
			}
		}
	}
	if _, err := CheckCommandLine(""); err == nil {
		t.Error("an empty command line was accepted")
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add(goodLine)
	f.Add(goodLine + ` attestbox.net="10.0.2.15/24,gw=10.0.2.2,dns=10.0.2.3" attestbox.loglevel=debug`)
	f.Fuzz(func(t *testing.T, line string) {
		o, err := CheckCommandLine(line)
		if err != nil {
			return
		}
		plain := strings.ReplaceAll(line, `"`, "")
		for _, w := range Required {
			if !strings.Contains(plain, w) {
				t.Fatalf("accepted without %s: %q", w, line)
			}
		}
		if o.Network != nil && o.Network.check() != nil {
			t.Fatalf("accepted network %+v", o.Network)
		}
	})
}
