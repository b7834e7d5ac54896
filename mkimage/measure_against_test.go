package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
	"attestbox/internal/snp"
)

// reportOf is a report's bytes with the digest of a launch. Its signature is
// zeros: -against does not look at it.
func reportOf(t testing.TB, cfg measure.Config, change func(*snp.Report)) []byte {
	t.Helper()
	m, err := measure.SNP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := snp.Report{Version: 3, Policy: snp.PolicyReserved1 | snp.PolicySMT, SignatureAlgo: snp.SigECDSAP384SHA384, Measurement: m.Digest,
		HostData: [32]byte{1}, CPUIDFamily: 0x19, CPUIDModel: 0x11, CPUIDStepping: 1}
	if change != nil {
		change(&r)
	}
	return r.Marshal()
}

func TestMeasureAgainst(t *testing.T) {
	dir := measureFiles(t)
	launched := measure.Config{Firmware: measure.SyntheticFirmware(), Kernel: []byte("kernel"), Initrd: []byte("initrd"), Append: "quiet", VCPUs: 2, VCPUType: "EPYC-Milan"}
	args := []string{"-ovmf", dir + "/fw", "-kernel", dir + "/kernel", "-initrd", dir + "/initrd", "-append", "quiet", "-vcpus", "2", "-vcpu-type", "EPYC-Milan", "-against"}
	for _, tc := range []struct {
		name   string
		launch func(*measure.Config)
		report func(*snp.Report)
		want   string // in the error; "" is the same digest
		note   string
	}{
		{"the same", nil, nil, "", ""},
		{"debug", nil, func(r *snp.Report) { r.Policy |= snp.PolicyDebug }, "", "DEBUG"},
		{"another VMPL", nil, func(r *snp.Report) { r.VMPL = 2 }, "", "VMPL 2"},
		{"no instance", nil, func(r *snp.Report) { r.HostData = [32]byte{} }, "", "HOST_DATA is zero"},
		{"ID block", nil, func(r *snp.Report) { r.IDKeyDigest[0] = 1 }, "", "ID block"},
		{"vCPUs", func(c *measure.Config) { c.VCPUs = 4 }, nil, "launched with -vcpus 4 (not 2)", ""},
		{"newline and type", func(c *measure.Config) { c.Append += "\n"; c.VCPUType = "EPYC-Genoa" }, nil,
			"-vcpu-type EPYC-Genoa (not EPYC-Milan); and with -append with a newline at its end", ""},
		{"the host's CPU", func(c *measure.Config) { c.VCPUType, c.VCPUSig = "", 0xa10f11 }, nil, "-vcpu-sig 0xa10f11, that of the report's chip", ""},
		{"another initramfs", func(c *measure.Config) { c.Initrd = []byte("other") }, nil, "launches near this one", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := launched
			if tc.launch != nil {
				tc.launch(&cfg)
			}
			raw := reportOf(t, cfg, tc.report)
			file := dir + "/report"
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			out, talk, err := measureRun(t, append(args, file)...)
			c, _ := code.Of(err)
			switch {
			case tc.want == "" && (err != nil || len(out) != 97):
				t.Errorf("printed %q, %v", out, err)
			case tc.want != "" && (c != code.MeasureDiffers || applet.ExitCode(err) != 3 || out != "" || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("printed %q, code %q, %v; want %q", out, c, err, tc.want)
			case !strings.Contains(talk, tc.note) || tc.note == "" && talk != "":
				t.Errorf("said %q, want %q", talk, tc.note)
			}
			out, _, err = measureRun(t, append(args, file, "-json")...)
			var m measured
			if (err != nil) != (tc.want != "") || json.Unmarshal([]byte(out), &m) != nil || m.Against == nil || m.Against.Same != (tc.want == "") {
				t.Errorf("json: %s, %v", out, err)
			}
		})
	}
}

// The forms that a report or a digest comes in.
func TestMeasureAgainstForms(t *testing.T) {
	dir := measureFiles(t)
	cfg := measure.Config{Firmware: measure.SyntheticFirmware(), VCPUs: 1, VCPUType: "EPYC"}
	raw := reportOf(t, cfg, nil)
	digest := hex.EncodeToString(raw[0x90:0xc0])
	args := []string{"-ovmf", dir + "/fw", "-vcpu-type", "EPYC", "-against"}
	if out, _, err := measureRun(t, append(args, digest)...); err != nil || out != digest+"\n" {
		t.Errorf("digest as the flag's value: %q, %v", out, err)
	}
	file := dir + "/report"
	for name, text := range map[string]string{
		"raw": string(raw), "hex": hex.EncodeToString(raw) + "\n", "hex in lines": strings.Join([]string{hex.EncodeToString(raw[:600]), hex.EncodeToString(raw[600:])}, "\n"),
		"base64": base64.StdEncoding.EncodeToString(raw), "digest": digest + "\n", "digest, upper case": strings.ToUpper(digest),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, _, err := measureRun(t, append(args, file)...); err != nil || out != digest+"\n" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "cut": string(raw[:1000]), "longer": string(raw) + "x", "version 1": "\x01" + string(raw[1:]), "digest cut": digest[:90], "words": "not a report", "huge": strings.Repeat("00", 5000),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, _, err := measureRun(t, append(args, file)...); err == nil || out != "" {
			t.Errorf("%s: printed %q", name, out)
		}
	}
	for _, more := range [][]string{{digest, "-mode", "sev"}, {digest, "-matrix", "vcpus=1-2"}} {
		if out, _, err := measureRun(t, append(args, more...)...); applet.ExitCode(err) != 2 || out != "" {
			t.Errorf("%q: %q, %v", more, out, err)
		}
	}
}

// FuzzReported: no panic, and a digest comes from where it stands.
func FuzzReported(f *testing.F) {
	raw := reportOf(f, measure.Config{Firmware: measure.SyntheticFirmware(), VCPUs: 1, VCPUType: "EPYC"}, nil)
	f.Add(raw)
	f.Add([]byte(hex.EncodeToString(raw)))
	f.Add([]byte(base64.StdEncoding.EncodeToString(raw)))
	f.Add([]byte(hex.EncodeToString(raw[0x90:0xc0])))
	f.Add(raw[:len(raw)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReported(b)
		if (r == nil) == (err == nil) {
			t.Fatal(r, err)
		}
		if err == nil && len(b) == snp.ReportSize && string(r.digest[:]) != string(b[0x90:0xc0]) {
			t.Fatalf("digest %x", r.digest)
		}
	})
}
