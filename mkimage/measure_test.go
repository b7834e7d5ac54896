package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
	"attestbox/internal/measure/measuretest"
	"attestbox/internal/testenv"
)

// measureRun calls `mkimage measure` and gives stdout, stderr and the error.
func measureRun(t *testing.T, args ...string) (string, string, error) {
	t.Helper()
	var out, talk bytes.Buffer
	env := &applet.Env{Name: "mkimage measure", Stdout: &out, Stderr: &talk, Getenv: func(string) string { return "" }}
	err := runMeasure(t.Context(), env, args)
	return out.String(), talk.String(), err
}

// measureFiles writes a firmware, kernel and initramfs and gives their folder.
func measureFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"fw": measure.SyntheticFirmware(), "kernel": []byte("kernel"), "initrd": []byte("initrd"),
		"no-sev": make([]byte, 8192), "empty": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMeasureComplete(t *testing.T) {
	dir := measureFiles(t)
	fw := measure.SyntheticFirmware()
	want, err := measure.SNP(measure.Config{Firmware: fw, Kernel: []byte("kernel"), Initrd: []byte("initrd"), Append: "quiet", VCPUs: 2, VCPUType: "EPYC-Milan"})
	if err != nil {
		t.Fatal(err)
	}
	hexDigest := hex.EncodeToString(want.Digest[:])
	args := []string{"-kernel", dir + "/kernel", "-initrd", dir + "/initrd", "-append", "quiet", "-vcpus", "2", "-vcpu-type", "EPYC-Milan"}
	out, talk, err := measureRun(t, args...)
	if err != nil || out != hexDigest+"\n" || !strings.Contains(talk, "synthetic firmware") || strings.Contains(talk, "INCOMPLETE") {
		t.Errorf("default firmware: %q, %q, %v; want %s", out, talk, err, hexDigest)
	}
	out, talk, err = measureRun(t, append(args, "-ovmf", dir+"/fw", "-output-format", "base64")...)
	if err != nil || out != base64.StdEncoding.EncodeToString(want.Digest[:])+"\n" || talk != "" {
		t.Errorf("base64: %q, %q, %v", out, talk, err)
	}
	out, talk, err = measureRun(t, append(args, "-ovmf", dir+"/fw", "-explain", "-json")...)
	var m measured
	if err != nil || talk != "" || json.Unmarshal([]byte(out), &m) != nil {
		t.Fatalf("json: %q, %q, %v", out, talk, err)
	}
	if m.Digest != hexDigest || !m.Complete || m.Why != "" || m.VCPUSig != "0xa00f11" || m.GuestFeatures != "0x1" ||
		m.Host != measure.HostLinux69 || *m.Append != "quiet" || len(m.Steps) != len(want.Steps) {
		t.Errorf("json: %s", out)
	}

	for name, want := range map[string]bool{".initrd": true, ".osrel": false} {
		file := dir + "/uki"
		if err := os.WriteFile(file, measuretest.PE([]string{".linux", ".cmdline", name}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, talk, err = measureRun(t, "-ovmf", dir+"/fw", "-kernel", file, "-vcpu-type", "EPYC")
		if (err == nil && talk == "") != want || (len(out) == 97) != want {
			t.Errorf("unified kernel image with %s: %q, %q, %v", name, out, talk, err)
		}
	}

	chain, _, err := measureRun(t, "-mode", "snp:ovmf-hash", "-ovmf", dir+"/fw")
	if err != nil {
		t.Fatal(err)
	}
	out, talk, err = measureRun(t, append(args, "-ovmf", dir+"/fw", "-snp-ovmf-hash", strings.TrimSpace(chain))...)
	if err != nil || out != hexDigest+"\n" || strings.Contains(talk, "INCOMPLETE") {
		t.Errorf("with the firmware's chain: %q, %q, %v", out, talk, err)
	}
}

func TestMeasureIncomplete(t *testing.T) {
	dir := measureFiles(t)
	whole := []string{"-vcpu-type", "EPYC", "-kernel", dir + "/kernel", "-initrd", dir + "/initrd"}
	for name, args := range map[string][]string{
		"no kernel":        {"-vcpu-type", "EPYC"},
		"no initramfs":     {"-vcpu-type", "EPYC", "-kernel", dir + "/kernel"},
		"empty initramfs":  {"-vcpu-type", "EPYC", "-kernel", dir + "/kernel", "-initrd", dir + "/empty"},
		"sev":              {"-mode", "sev", "-kernel", dir + "/kernel", "-initrd", dir + "/initrd"},
		"sev-es":           {"-mode", "seves", "-vcpu-type", "EPYC", "-kernel", dir + "/kernel", "-initrd", dir + "/initrd"},
		"firmware's chain": {"-mode", "snp:ovmf-hash"},
		"another's chain":  append([]string{"-snp-ovmf-hash", strings.Repeat("a1", 48)}, whole...),
		"and a matrix":     append([]string{"-snp-ovmf-hash", strings.Repeat("a1", 48), "-matrix", "vcpus=1-2"}, whole...),
	} {
		out, talk, err := measureRun(t, append(args, "-ovmf", dir+"/fw")...)
		if err != nil || out == "" || !strings.Contains(talk, "INCOMPLETE") {
			t.Errorf("%s: %q, %q, %v", name, out, talk, err)
		}
	}
}

func TestMeasureRefuses(t *testing.T) {
	dir := measureFiles(t)
	for _, tc := range []struct {
		name string
		exit int
		code code.Code
		args []string
	}{
		{"firmware without SEV metadata", 3, code.MeasureFirmware, []string{"-ovmf", dir + "/no-sev", "-vcpu-type", "EPYC"}},
		{"kernel with firmware that cannot hash it", 3, code.MeasureNoHashes, []string{"-mode", "sev", "-ovmf", dir + "/no-sev", "-kernel", dir + "/kernel"}},
		{"empty firmware", 3, code.MeasureFirmware, []string{"-ovmf", dir + "/empty", "-vcpu-type", "EPYC"}},
		{"missing firmware", 1, "", []string{"-ovmf", dir + "/nothing", "-vcpu-type", "EPYC"}},
		{"missing kernel", 1, "", []string{"-kernel", dir + "/nothing", "-vcpu-type", "EPYC"}},
		{"missing initramfs", 1, "", []string{"-kernel", dir + "/kernel", "-initrd", dir + "/nothing", "-vcpu-type", "EPYC"}},
		{"a folder as kernel", 1, "", []string{"-kernel", dir, "-vcpu-type", "EPYC"}},
		{"unknown vCPU type", 2, code.Usage, []string{"-vcpu-type", "host"}},
		{"no vCPU type", 2, code.Usage, nil},
		{"zero vCPUs", 2, code.Usage, []string{"-vcpu-type", "EPYC", "-vcpus", "0"}},
		{"signature too large", 2, code.Usage, []string{"-vcpu-sig", "0x100000000"}},
		{"features not a number", 2, code.Usage, []string{"-vcpu-type", "EPYC", "-guest-features", "all"}},
		{"unknown mode", 2, code.Usage, []string{"-mode", "tdx"}},
		{"unknown format", 2, code.Usage, []string{"-output-format", "ascii", "-vcpu-type", "EPYC"}},
		{"initramfs without kernel", 2, code.Usage, []string{"-initrd", dir + "/initrd", "-vcpu-type", "EPYC"}},
		{"command line without kernel", 2, code.Usage, []string{"-append", "quiet", "-vcpu-type", "EPYC"}},
		{"SVSM mode without SVSM", 2, code.Usage, []string{"-mode", "snp:svsm", "-vcpu-type", "EPYC"}},
		{"SVSM without its mode", 2, code.Usage, []string{"-svsm", dir + "/fw", "-vcpu-type", "EPYC"}},
		{"variable store twice", 2, code.Usage, []string{"-mode", "snp:svsm", "-ovmf", dir + "/fw", "-svsm", dir + "/fw", "-vars-size", "4096", "-vars-file", dir + "/fw", "-vcpu-type", "EPYC"}},
		{"signature 0", 2, code.Usage, []string{"-vcpu-sig", "0"}},
		{"family alone", 2, code.Usage, []string{"-vcpu-family", "25"}},
		{"family against signature", 2, code.Usage, []string{"-vcpu-family", "25", "-vcpu-model", "1", "-vcpu-stepping", "1", "-vcpu-sig", "0x800f12"}},
		{"model too large", 2, code.Usage, []string{"-vcpu-family", "25", "-vcpu-model", "256", "-vcpu-stepping", "1"}},
		{"VMM twice", 2, code.Usage, []string{"-vmm", "qemu", "-vmm-type", "QEMU", "-vcpu-type", "EPYC"}},
		{"unknown VMM", 2, code.Usage, []string{"-vmm-type", "xen", "-vcpu-type", "EPYC"}},
		{"matrix of nonsense", 2, code.Usage, []string{"-vcpu-type", "EPYC", "-matrix", "cpus=1"}},
		{"matrix with an unknown type", 2, code.Usage, []string{"-matrix", "types=EPYC,host"}},
		{"matrix of SEV", 2, code.Usage, []string{"-mode", "sev", "-matrix", "vcpus=1-2"}},
		{"vCPU pages of SEV", 2, code.Usage, []string{"-mode", "sev", "-dump-vmsa"}},
		{"chain of the wrong length", 2, code.Usage, []string{"-snp-ovmf-hash", "00", "-vcpu-type", "EPYC"}},
		{"an argument", 2, code.Usage, []string{"-vcpu-type", "EPYC", "vmlinuz"}},
		{"unknown flag", 2, code.Usage, []string{"-vcpu", "2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, _, err := measureRun(t, tc.args...)
			c, _ := code.Of(err)
			if err == nil || out != "" || applet.ExitCode(err) != tc.exit || c != tc.code {
				t.Errorf("printed %q, exit %d, code %q, %v; want exit %d, code %q", out, applet.ExitCode(err), c, err, tc.exit, tc.code)
			}
		})
	}
}

// The names and spellings of the public tool's flags.
func TestMeasureFlagNames(t *testing.T) {
	dir := measureFiles(t)
	t.Chdir(dir)
	base := []string{"--ovmf=fw", "--kernel=kernel", "--initrd=initrd", "--append=quiet", "--vcpus=3"}
	run := func(args ...string) string {
		t.Helper()
		out, talk, err := measureRun(t, append(base, args...)...)
		if err != nil || strings.Contains(talk, "synthetic") {
			t.Fatalf("%q: %q, %v", args, talk, err)
		}
		return out
	}
	want := run("-vcpu-type", "EPYC-Milan")
	for _, args := range [][]string{
		{"--mode", "snp", "--vcpu-sig=0xa00f11"}, {"--vcpu-sig", "10489617"}, {"--mode=SEV-SNP", "--vcpu-type=EPYC-Milan-v2"},
		{"--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "1"},
		{"--vmm-type", "QEMU", "--guest-features", "0x1", "--vcpu-type=EPYC-Milan"},
	} {
		if got := run(args...); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
	if run("--vmm-type", "ec2") == want || run("--vmm-type", "gce") != run("-vmm", "GCE") {
		t.Error("-vmm-type")
	}

	run("-vcpu-type", "EPYC-Milan", "--dump-vmsa")
	cfg := measure.Config{Firmware: measure.SyntheticFirmware(), Kernel: []byte("kernel"), Initrd: []byte("initrd"), Append: "quiet", VCPUs: 3, VCPUType: "EPYC-Milan"}
	r, err := measure.SNP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, page := range []*[measure.PageSize]byte{r.First, r.Others, r.Others} {
		if b, err := os.ReadFile(fmt.Sprintf("vmsa%d.bin", i)); err != nil || !bytes.Equal(b, page[:]) {
			t.Errorf("vCPU %d: %d bytes, %v", i, len(b), err)
		}
	}
	if _, err := os.Stat("vmsa3.bin"); err == nil {
		t.Error("a fourth vCPU was written")
	}
}

func TestMeasureExplain(t *testing.T) {
	dir := measureFiles(t)
	_, talk, err := measureRun(t, "-ovmf", dir+"/fw", "-kernel", dir+"/kernel", "-initrd", dir+"/initrd", "-append", "quiet", "-vcpus", "2", "-vcpu-type", "EPYC-Milan", "-explain")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0xffff0000", "65536", "kernel hashes", "other processors", "of \"quiet\" and a NUL", "signature 0xa00f11, SEV_FEATURES 0x1"} {
		if !strings.Contains(talk, want) {
			t.Errorf("no %q in:\n%s", want, talk)
		}
	}
	_, talk, err = measureRun(t, "-mode", "seves", "-ovmf", dir+"/fw", "-kernel", dir+"/kernel", "-vcpus", "2", "-vcpu-type", "EPYC-Milan", "-explain")
	if err != nil || !strings.Contains(talk, "table of hashes") || !strings.Contains(talk, "other processors") || !strings.Contains(talk, "signature 0xa00f11") {
		t.Errorf("SEV-ES: %v\n%s", err, talk)
	}
}

func TestMeasureMatrix(t *testing.T) {
	dir := measureFiles(t)
	args := []string{"-ovmf", dir + "/fw", "-kernel", dir + "/kernel", "-initrd", dir + "/initrd", "-append", "quiet", "-matrix", "vcpus=1-3:types=EPYC-Milan,EPYC-Genoa:features=0x1,0x21"}
	out, talk, err := measureRun(t, append(args, "-json")...)
	var cells []measuredCell
	if err != nil || talk != "" || json.Unmarshal([]byte(out), &cells) != nil || len(cells) != 12 {
		t.Fatalf("%q, %q, %v", out, talk, err)
	}
	table, _, err := measureRun(t, args...)
	if err != nil || strings.Count(table, "\n") != 13 {
		t.Errorf("%v\n%s", err, table)
	}
	for _, c := range cells {
		one, _, err := measureRun(t, append(args[:8:8], "-vcpus", fmt.Sprint(c.VCPUs), "-vcpu-type", c.VCPUType, "-guest-features", c.GuestFeatures, "-host", c.Host)...)
		if err != nil || strings.TrimSpace(one) != c.Digest || !c.Complete || !strings.Contains(table, c.Digest) {
			t.Errorf("%+v: alone %q, %v", c, one, err)
		}
	}
	_, talk, err = measureRun(t, "-ovmf", dir+"/fw", "-matrix", "vcpus=1-2:types=EPYC")
	if err != nil || !strings.Contains(talk, "INCOMPLETE") {
		t.Errorf("without a kernel: %q, %v", talk, err)
	}
}

// The anchor of the shared vectors, through the command line.
func TestMeasureAnchor(t *testing.T) {
	fw := testenv.Shared(t, "vectors/measure/ovmf_AmdSev_suffix.bin")
	out, _, err := measureRun(t, "-ovmf", fw, "-kernel", "/dev/null", "-initrd", "/dev/null", "-append", "console=ttyS0 loglevel=7", "-vcpu-type", "EPYC-v4")
	if err != nil || !strings.HasPrefix(out, "6d287813eb5222d7") {
		t.Errorf("%q, %v", out, err)
	}
	svsm := testenv.Shared(t, "vectors/measure/svsm.bin")
	fw = testenv.Shared(t, "vectors/measure/svsm_ovmf.fd")
	out, talk, err := measureRun(t, "-mode", "snp:svsm", "-ovmf", fw, "-svsm", svsm, "-vars-size", "540672", "-vcpus", "2", "-vcpu-type", "EPYC-v4")
	if err != nil || !strings.HasPrefix(out, "9b94745036aafddf") || !strings.Contains(talk, "INCOMPLETE") {
		t.Errorf("%q, %q, %v", out, talk, err)
	}
}
