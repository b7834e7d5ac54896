package image

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"attestbox/internal/measure"
	"attestbox/internal/uki"
	"attestbox/internal/uki/ukitest"
)

func withUKI(t testing.TB, dir string, m *Manifest) {
	t.Helper()
	m.UKI, m.UKIStub = true, dir+"/linuxx64.efi.stub"
	ok(t, os.WriteFile(m.UKIStub, ukitest.Stub(), 0o644))
}

// A unified kernel image holds the very files beside it, its digest is that of a
// launch with it as the kernel and nothing else, and it covers all three.
func TestUKI(t *testing.T) {
	dir, m := inputs(t)
	plain := build(t, m)
	withUKI(t, dir, m)
	img := build(t, m)
	if !bytes.Equal(img.Initrd, plain.Initrd) || *img.Record.Measurement != *plain.Record.Measurement {
		t.Error("the image itself is another one")
	}
	p, err := uki.Read(img.UKI)
	ok(t, err)
	if !bytes.Equal(p.Kernel, img.Kernel) || !bytes.Equal(p.Initrd, img.Initrd) || p.Cmdline != img.Cmdline || p.Release != img.Record.KernelRelease {
		t.Errorf("parts %q, %q", p.Cmdline, p.Release)
	}
	u := img.Record.UKI
	cfg := measure.Config{Firmware: measure.SyntheticFirmware(), Kernel: img.UKI, VCPUs: 1, VCPUType: "EPYC-Milan"}
	bare, err := measure.SNP(cfg)
	ok(t, err)
	if !u.Complete || u.LaunchDigest != hex.EncodeToString(bare.Digest[:]) || u.LaunchDigest == img.Record.Measurement.LaunchDigest || bare.Complete {
		t.Errorf("%+v; measured as a bare kernel: complete %v, %x", u, bare.Complete, bare.Digest)
	}
	// With another command line or initramfs beside it, it is another launch.
	for _, change := range []func(c *measure.Config){
		func(c *measure.Config) { c.Append = "init=/bin/sh" }, func(c *measure.Config) { c.Initrd = []byte("x") },
	} {
		c := cfg
		change(&c)
		if r, err := measure.SNP(c); err != nil || r.Digest == bare.Digest {
			t.Errorf("the same digest with %q and an initramfs of %d bytes, %v", c.Append, len(c.Initrd), err)
		}
	}
	m.VMM = measure.EC2
	if img := build(t, m); img.Record.UKI.Complete {
		t.Error("complete in a cloud")
	}
	m.VMM = ""
	verify(t, dir, m)
}

// A unified kernel image that holds something else than the files beside it is
// found out, even when the record was written for it.
func TestUKIChanged(t *testing.T) {
	dir, m := inputs(t)
	withUKI(t, dir, m)
	img := build(t, m)
	evil, err := uki.Build(ukitest.Stub(), uki.Parts{Kernel: img.Kernel, Initrd: []byte("another"), Cmdline: img.Cmdline, Release: img.Record.KernelRelease, OSName: "attestbox"})
	ok(t, err)
	flipped := bytes.Clone(img.UKI)
	flipped[len(flipped)/2] ^= 1
	for what, image := range map[string][]byte{"another initramfs": evil, "a flipped bit": flipped, "a stub alone": ukitest.Stub(), "missing": nil} {
		for _, claimed := range []bool{false, true} {
			bad := *img
			rec, u := *img.Record, *img.Record.UKI
			if bad.UKI = image; claimed && image != nil {
				u.Output = outputOf(image)
				ok(t, u.measure(rec.Measurement, measure.SyntheticFirmware()))
			}
			rec.UKI = &u
			bad.Record = &rec
			out := t.TempDir()
			ok(t, WriteDir(out, &bad))
			r, err := Inspect(out, nil)
			ok(t, err)
			if len(r.Mismatches) == 0 || !strings.Contains(strings.Join(r.Mismatches, "\n"), UKIName) {
				t.Errorf("%s, record made for it %v: %q", what, claimed, r.Mismatches)
			}
			if _, err := Claimable(out, nil); err == nil {
				t.Errorf("%s: may be claimed", what)
			}
		}
	}
	out := t.TempDir()
	ok(t, WriteDir(out, img))
	if r, err := Inspect(out, nil); err != nil || len(r.Mismatches) != 0 || r.UKIDigest != img.Record.UKI.LaunchDigest {
		t.Errorf("as built: %q, %v", r.Mismatches, err)
	}
	m.UKIStub = dir + "/guest"
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "EFI stub") {
		t.Errorf("a guest binary as stub: %v", err)
	}
}
