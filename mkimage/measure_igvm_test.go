package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure/igvm"
	"attestbox/internal/measure/igvm/igvmtest"
)

func igvmFile(t *testing.T, items ...igvmtest.Item) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "svsm.igvm")
	if err := os.WriteFile(name, igvmtest.File(1, items...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func igvmItems() []igvmtest.Item {
	return []igvmtest.Item{igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Policy(0x30000),
		igvmtest.Area(1, 0x1000), igvmtest.Insert(1, 0x8000), igvmtest.Page(0x1000, igvm.PageNormal, 0, make([]byte, igvm.PageSize)),
		igvmtest.Page(0x2000, igvm.PageNormal, 0, []byte(strings.Repeat("svsm", 1024))), igvmtest.Page(0x3000, igvm.PageSecrets, 0, nil),
		igvmtest.VP(0, igvm.KVMContext, igvmtest.VMSA())}
}

func TestMeasureIGVM(t *testing.T) {
	name := igvmFile(t, igvmItems()...)
	digest, talk, err := measureRun(t, "-igvm", name)
	if err != nil || len(digest) != 97 {
		t.Fatalf("%q, %v", digest, err)
	}
	for _, want := range []string{"INCOMPLETE: an IGVM file", "guest policy: 0x30000", "ID block: none"} {
		if !strings.Contains(talk, want) {
			t.Errorf("stderr lacks %q: %q", want, talk)
		}
	}
	_, talk, err = measureRun(t, "-igvm", name, "-explain", "-vmm", "qemu")
	for _, want := range []string{"parameters", "secrets", "vCPU 0", "0x1000", digest[:16]} {
		if !strings.Contains(talk, want) || err != nil {
			t.Errorf("-explain lacks %q: %q, %v", want, talk, err)
		}
	}
	out, _, err := measureRun(t, "-igvm", name, "-json", "-explain")
	var got measuredIGVM
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || got.Digest != digest[:96] || got.Complete || got.Policy != "0x30000" || got.VCPUs != 1 || len(got.Steps) != 4 {
		t.Errorf("JSON %s, %v", out, err)
	}
}

// A report of a host that sets CR0 differently: the difference is named.
func TestMeasureIGVMAgainst(t *testing.T) {
	items := igvmItems()
	name := igvmFile(t, items...)
	digest, _, err := measureRun(t, "-igvm", name)
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := measureRun(t, "-igvm", name, "-against", digest[:96]); err != nil || out != digest {
		t.Errorf("the same digest: %q, %v", out, err)
	}
	vmsa := igvmtest.VMSA()
	vmsa[0x158] = 0x21
	items[len(items)-1] = igvmtest.VP(0, igvm.KVMContext, vmsa)
	out, _, err := measureRun(t, "-igvm", igvmFile(t, items...), "-against", digest[:96])
	if c, _ := code.Of(err); out != "" || c != code.MeasureDiffers || !strings.Contains(err.Error(), "launched with CR0 0x31") {
		t.Errorf("another CR0: %q, %v", out, err)
	}
}

// An ID block of another digest, and one whose signature is none, are named.
func TestMeasureIGVMIDBlock(t *testing.T) {
	block := igvmtest.Item{Type: igvm.TypeIDBlock, Content: make([]byte, 696)}
	block.Content[0], block.Content[88] = igvmtest.Mask, 1
	_, talk, err := measureRun(t, "-igvm", igvmFile(t, append(igvmItems(), block)...))
	if err != nil || !strings.Contains(talk, "warning: the ID block: malformed ID block: ID_KEY_ALGO 0") {
		t.Errorf("%q, %v", talk, err)
	}
}

func TestMeasureIGVMRefused(t *testing.T) {
	name := igvmFile(t, igvmItems()...)
	for _, args := range [][]string{{"-vcpus", "2"}, {"-ovmf", name}, {"-kernel", name}, {"-append", "x"}, {"-vcpu-type", "EPYC-Milan"}, {"-host", "cr0-ne"},
		{"-vmm", "ec2"}, {"-mode", "snp:svsm"}, {"-mode", "sev"}, {"-output-format", "x"}} {
		if out, _, err := measureRun(t, append([]string{"-igvm", name}, args...)...); out != "" || applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
	for what, file := range map[string]string{"firmware": filepath.Join(measureFiles(t), "fw"), "TDX": igvmFile(t, igvmtest.Platform(igvm.TDX, 1), igvmtest.Page(0, 0, 0, nil))} {
		out, _, err := measureRun(t, "-igvm", file)
		if c, _ := code.Of(err); out != "" || c != code.MeasureIGVM || applet.ExitCode(err) != applet.ExitRefused {
			t.Errorf("%s: %q, %v", what, out, err)
		}
	}
}
