package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestbox/initramfs/config"
	"attestbox/internal/image/imagetest"
)

const stage1JSON = `{"mode":"bundle","servers":["tcp://192.0.2.1:8451"],` +
	`"pins":["sha256:1111111111111111111111111111111111111111111111111111111111111111"],"network":{"method":"dhcp"},` +
	`"bundle":{"device":"/dev/vdb","name":"web","min_version":3,"key":"2222222222222222222222222222222222222222222222222222222222222222"}}`

// stage1Inputs are inputs of a stage 1 with a kernel of this release.
func stage1Inputs(t *testing.T, release string) *Manifest {
	t.Helper()
	dir, m := inputs(t)
	ok(t, os.WriteFile(dir+"/init.json", []byte(stage1JSON), 0o644))
	ok(t, os.WriteFile(dir+"/vmlinuz", imagetest.Kernel(release), 0o644))
	m.ModulesDir = filepath.Join(dir, "lib/modules", release)
	if release != imagetest.Release {
		// Modules of a release of their own: everything that is needed is built in.
		ok(t, os.MkdirAll(m.ModulesDir, 0o755))
		ok(t, os.WriteFile(m.ModulesDir+"/modules.builtin", []byte("kernel/virtio_pci.ko\nkernel/virtio_blk.ko\nkernel/virtio_console.ko\nkernel/cuse.ko\nkernel/sev-guest.ko\n"), 0o644))
	}
	return m
}

// A kernel that cannot kexec in an SNP guest is refused as that of a stage 1,
// unless the image is for the simulator, and then its record says so.
func TestStage1Kernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-50-cloud-amd64":     "refused",
		imagetest.Release:          "refused", // 6.12
		"5.15.0":                   "refused",
		"6":                        "refused",
		"next-20260101":            "refused",
		"6.13.0-1-amd64":           "several vCPUs",
		"6.14.11-generic":          "several vCPUs",
		"6.15.0":                   "",
		"6.16.3+deb13-cloud-amd64": "",
		"7.0.0-rc1":                "",
	} {
		m := stage1Inputs(t, release)
		img, err := Build(m, Options{})
		if want == "refused" {
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "6.13") {
				t.Errorf("%s: %v", release, err)
			}
			m.SimDevice = filepath.Dir(m.Config) + "/sim-device"
			img, err = Build(m, Options{})
			if err != nil || img.Record.SNPHardware || !slices.ContainsFunc(img.Record.Notes, func(n string) bool { return strings.Contains(n, "for the simulator only") }) {
				t.Errorf("%s for the simulator: %+v, %v", release, img, err)
			}
			continue
		}
		ok(t, err)
		if notes := strings.Join(img.Record.Notes, "\n"); !img.Record.SNPHardware || strings.Contains(notes, "stage 1") != (want != "") || !strings.Contains(notes, want) {
			t.Errorf("%s: hardware %v, notes %q", release, img.Record.SNPHardware, notes)
		}
	}
}

func TestStage1Image(t *testing.T) {
	m := stage1Inputs(t, imagetest.Release)
	m.SimDevice = filepath.Dir(m.Config) + "/sim-device"
	img := build(t, m)
	want := Stage1{Name: "web", Key: strings.Repeat("22", 32), MinVersion: 3}
	if img.Record.Stage1 == nil || *img.Record.Stage1 != want || !img.Record.Measurement.Complete {
		t.Errorf("record %+v", img.Record.Stage1)
	}
	if mods := strings.Join(img.Record.Modules, " "); strings.Contains(mods, "dm-") || !strings.Contains(mods, "virtio_blk") || !strings.Contains(mods, "sev-guest") {
		t.Errorf("modules %s", mods)
	}
	// The tables of an SNP guest go to the next kernel only with EFI.
	if strings.Contains(img.Cmdline, "efi=") {
		t.Errorf("command line %q", img.Cmdline)
	}
	if _, err := config.CheckCommandLine(img.Cmdline); err != nil {
		t.Error(err)
	}
	verify(t, filepath.Dir(m.Config), m)
	m13 := stage1Inputs(t, "6.13.0-1-amd64")
	if img := build(t, m13); !strings.Contains(img.Cmdline, " accept_memory=eager") {
		t.Errorf("6.13: command line %q", img.Cmdline)
	}
	if img := build(t, stage1Inputs(t, "6.15.0")); strings.Contains(img.Cmdline, "accept_memory") {
		t.Errorf("6.15: command line %q", img.Cmdline)
	}
	m13.Append = "accept_memory=lazy"
	if _, err := Build(m13, Options{}); !errors.Is(err, ErrCmdline) {
		t.Errorf("6.13 with %s: %v", m13.Append, err)
	}
	for _, word := range []string{"efi=noruntime", "noefi", "sysctl.kernel.kexec_load_disabled=1", "sysctl.kernel.kexec-load-disabled=1", "sysctl/kernel/kexec_load_disabled=1", "lockdown=integrity", "panic=0"} {
		m.Append = word
		if _, err := Build(m, Options{}); !errors.Is(err, ErrCmdline) {
			t.Errorf("%s: %v", word, err)
		}
	}
	m.Append = ""
	dir := t.TempDir()
	ok(t, WriteDir(dir, build(t, m)))
	r, err := Inspect(dir, nil)
	if err != nil || len(r.Mismatches) > 0 {
		t.Errorf("%v, %v", r.Mismatches, err)
	}
	// A record that hides what the image is.
	name := filepath.Join(dir, RecordName)
	b, err := os.ReadFile(name)
	ok(t, err)
	ok(t, os.WriteFile(name, []byte(strings.Replace(string(b), `"min_version": 3`, `"min_version": 4`, 1)), 0o644))
	if r, err = Inspect(dir, nil); err != nil || len(r.Mismatches) != 1 || !strings.Contains(r.Mismatches[0], "stage 1") {
		t.Errorf("%v, %v", r.Mismatches, err)
	}
}
