package snpsim

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

func call(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, talk bytes.Buffer
	env := &applet.Env{Name: "snp-sim", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Getenv: func(string) string { return "" }}
	err := Applet.Run(t.Context(), env, args)
	applet.Print(&talk, env.Name, err)
	return out.String(), talk.String(), applet.ExitCode(err)
}

func TestChipCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "chip")
	if _, talk, exit := call(t, "init", "-chip", dir, "-product", "Turin", "-report-version", "5",
		"-chip-id", "0102030405060708", "-tcb", "fmc=3,snp=9"); exit != 0 || !strings.Contains(talk, "NOT AMD HARDWARE") {
		t.Fatalf("init: exit %d, %s", exit, talk)
	}
	if _, talk, exit := call(t, "init", "-chip", dir); exit != 1 || !strings.Contains(talk, "holds a chip already") || !strings.Contains(talk, "hint") {
		t.Errorf("second init: exit %d, %s", exit, talk)
	}
	out, _, exit := call(t, "show", "-chip", dir)
	for _, want := range []string{"Turin", "0102030405060708", "fmc=3", "snp=9", "NOT AMD HARDWARE"} {
		if exit != 0 || !strings.Contains(out, want) {
			t.Errorf("show lacks %q:\n%s", want, out)
		}
	}
	out, _, _ = call(t, "show", "-chip", dir, "-json")
	var info map[string]any
	if err := json.Unmarshal([]byte(out), &info); err != nil || info["product"] != "Turin" {
		t.Errorf("show -json: %v, %s", err, out)
	}
	next := filepath.Join(t.TempDir(), "next")
	if _, talk, exit := call(t, "init", "-chip", next, "-like", dir); exit != 0 {
		t.Fatalf("init -like: exit %d, %s", exit, talk)
	}
	var other map[string]any
	out, _, _ = call(t, "show", "-chip", next, "-json")
	if err := json.Unmarshal([]byte(out), &other); err != nil {
		t.Fatal(err)
	}
	for name, same := range map[string]bool{"product": true, "ark_sha256": true, "ask_sha256": true, "reported_tcb": true, "report_version": true,
		"chip_id": false, "vcek_sha256": false} {
		if info[name] == nil || (info[name] == other[name]) != same {
			t.Errorf("another chip of the maker: %s %v, and %v", name, info[name], other[name])
		}
	}
	if _, talk, exit := call(t, "init", "-chip", filepath.Join(next, "x"), "-like", dir, "-product", "Genoa"); exit != 2 {
		t.Errorf("another product of the chip's maker: exit %d, %s", exit, talk)
	}
	file := filepath.Join(dir, "report")
	if _, talk, exit := call(t, "report", "-chip", dir, "-host-data", strings.Repeat("11", 32), "-vmpl", "2", "-out", file); exit != 0 {
		t.Fatalf("report: exit %d, %s", exit, talk)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.Parse(b)
	if err != nil || r.HostData != [32]byte(bytes.Repeat([]byte{0x11}, 32)) || r.VMPL != 2 || r.Version != 5 ||
		snp.DecodeTCB(snp.Turin, r.ReportedTCB).FMC != 3 || r.ChipID != [64]byte{1, 2, 3, 4, 5, 6, 7, 8} {
		t.Errorf("report: %v, %+v", err, r)
	}
	if _, talk, exit := call(t, "update", "-chip", dir, "-tcb", "snp=10", "-report-version", "3"); exit != 0 {
		t.Errorf("update: exit %d, %s", exit, talk)
	}
	out, _, _ = call(t, "report", "-chip", dir)
	if r, err := snp.Parse([]byte(out)); err != nil || r.Version != 3 ||
		snp.DecodeTCB(snp.Turin, r.ReportedTCB) != (snp.TCB{FMC: 3, BootLoader: 1, TEE: 1, SNP: 10, Microcode: 80, HasFMC: true}) {
		t.Errorf("after the update: %v, %+v", err, r)
	}
	if out, _, exit := call(t, "report", "-chip", dir); exit != 0 || len(out) != snp.ReportSize {
		t.Errorf("report to stdout: exit %d, %d bytes", exit, len(out))
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{}, {"nothing"}, {"init"}, {"show"}, {"report"}, {"update"}, {"update", "-chip", dir}, {"update", "-chip", dir, "-report-version", "4"}, {"init", "-chip", dir, "-product", "Rome"},
		{"init", "-chip", dir, "-report-version", "4"}, {"init", "-chip", dir, "-tcb", "fmc=1"},
		{"init", "-chip", dir, "-tcb", "snp=1,snp=2"}, {"init", "-chip", dir, "-tcb", "snp=256"},
		{"init", "-chip", dir, "-chip-id", "00"}, {"report", "-chip", dir, "-host-data", "zz"},
		{"report", "-chip", dir, "-policy", "0"}, {"report", "-chip", dir, "-vmpl", "4"},
	} {
		if out, talk, exit := call(t, args...); exit != 2 || out != "" || !strings.Contains(talk, "hint: for example") {
			t.Errorf("%q: exit %d, %q, %q", args, exit, out, talk)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("wrong calls left %v", left)
	}
	if _, talk, exit := call(t, "show", "-chip", dir); exit != 1 || !strings.Contains(talk, "snp-sim init") {
		t.Errorf("show without a chip: exit %d, %s", exit, talk)
	}
	if out, _, exit := call(t, "-h"); exit != 0 || !strings.Contains(out, "make a chip") {
		t.Errorf("-h: exit %d, %s", exit, out)
	}
	if _, err := os.Stat(filepath.Join(dir, snpsim.FileChip)); err == nil {
		t.Error("a chip exists")
	}
}
