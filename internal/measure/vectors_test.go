package measure

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"

	"attestbox/internal/testenv"
)

// call is one entry of the shared vectors: a launch and the digest that the
// public reference tool gives for it.
type call struct {
	Mode          string
	Firmware      string
	VCPUs         int
	GuestFeatures uint64 `json:"guest_features"`
	VCPUSig       string `json:"vcpu_sig"`
	VMM           string
	Kernel        *string
	Initrd        *string
	Append        string
	FirmwareChain string `json:"firmware_chain"`
	SVSM          string
	VarsSize      uint64 `json:"vars_size"`
	Digest        string
	Refused       bool
}

func (c *call) config(t *testing.T) Config {
	t.Helper()
	file := func(name string) []byte {
		b, err := os.ReadFile(testenv.Shared(t, "vectors/measure/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	empty := func(s *string) []byte {
		switch {
		case s == nil:
			return nil
		case *s == "empty file":
			return []byte{}
		}
		t.Fatalf("unknown input %q", *s)
		return nil
	}
	cfg := Config{
		Firmware: file(c.Firmware), VCPUs: c.VCPUs, GuestFeatures: c.GuestFeatures, VMM: c.VMM,
		Kernel: empty(c.Kernel), Initrd: empty(c.Initrd), Append: c.Append, VarsSize: c.VarsSize,
	}
	if c.VCPUSig != "" {
		sig, err := strconv.ParseUint(c.VCPUSig, 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		cfg.VCPUSig = uint32(sig)
	}
	if c.FirmwareChain != "" {
		var chain [48]byte
		if n, err := hex.Decode(chain[:], []byte(c.FirmwareChain)); err != nil || n != 48 {
			t.Fatalf("firmware chain: %d bytes, %v", n, err)
		}
		cfg.FirmwareChain = &chain
	}
	if c.SVSM != "" {
		cfg.SVSM = file(c.SVSM)
	}
	return cfg
}

// digest computes what the call's mode asks for, as hex.
func digest(mode string, cfg Config) (string, error) {
	legacy := func(r *LegacyResult, err error) (string, error) {
		if err != nil {
			return "", err
		}
		return hex.EncodeToString(r.Digest[:]), nil
	}
	snp := func(r *Result, err error) (string, error) {
		if err != nil {
			return "", err
		}
		return hex.EncodeToString(r.Digest[:]), nil
	}
	switch mode {
	case "sev":
		return legacy(SEV(cfg))
	case "sev-es":
		return legacy(SEVES(cfg))
	case "sev-snp":
		return snp(SNP(cfg))
	case "sev-snp-svsm":
		return snp(SVSM(cfg))
	}
	return "", fmt.Errorf("unknown mode %q", mode)
}

func TestSharedVectors(t *testing.T) {
	raw, err := os.ReadFile(testenv.Shared(t, "vectors/measure/calls.json"))
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	if err := json.Unmarshal(raw, &calls); err != nil {
		t.Fatal(err)
	}
	if len(calls) < 27 {
		t.Fatalf("%d calls, want at least 27", len(calls))
	}
	for i, c := range calls {
		t.Run(fmt.Sprintf("%02d-%s-%s", i, c.Mode, c.VMM), func(t *testing.T) {
			got, err := digest(c.Mode, c.config(t))
			switch {
			case c.Refused && err == nil:
				t.Errorf("digest %s, want a refusal", got)
			case !c.Refused && err != nil:
				t.Error(err)
			case got != c.Digest:
				t.Errorf("digest %s, want %s", got, c.Digest)
			}
		})
	}
}

// Two digests that the public tool's own tests had before it followed Linux 6.9,
// for the same files as in the shared vectors.
func TestOlderVectors(t *testing.T) {
	for vcpus, want := range map[int]string{
		2: "4ae03ca013690e956bc1eb16bc1c6465788dba64ad88a650db09216fa9cdddf06167bfce810eba8988108e71458dd68b",
		4: "265aed64f2454253f6b19e49e17041ef052dedf964dd8d2740794a06aee3a720c475e3643a1b7e26b9efce7a107bf77f",
	} {
		c := call{Firmware: "svsm_ovmf.fd", SVSM: "svsm.bin", VarsSize: 540672, VCPUs: vcpus, VCPUSig: "0x800f12"}
		cfg := c.config(t)
		cfg.Host = HostLinux68
		if got, err := digest("sev-snp-svsm", cfg); err != nil || got != want {
			t.Errorf("%d vCPUs: %s, %v; want %s", vcpus, got, err, want)
		}
	}
}
