package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
	"attestbox/internal/image/imagetest"
	"attestbox/internal/measure"
	"attestbox/internal/snp"
)

const testID = "1111111111111111111111111111111111111111111111111111111111111111"

// launchImage builds an image in a folder with its firmware and gives its digest.
func launchImage(t *testing.T) (dir string, digest [48]byte) {
	t.Helper()
	dir = t.TempDir()
	imagetest.Inputs(t, dir)
	write(t, dir, "firmware", measure.SyntheticFirmware())
	img, err := image.Build(&image.Manifest{Kernel: dir + "/vmlinuz", ModulesDir: dir + "/lib/modules/" + imagetest.Release,
		Guest: dir + "/guest", Config: dir + "/init.json", Firmware: dir + "/firmware"}, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.WriteDir(dir+"/web", img); err != nil {
		t.Fatal(err)
	}
	if _, err := hex.Decode(digest[:], []byte(img.Record.Measurement.LaunchDigest)); err != nil {
		t.Fatal(err)
	}
	return dir, digest
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func printLaunch(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &applet.Env{Name: "mkimage launch", Stdout: &out, Stderr: &errs}
	err := runLaunch(context.Background(), env, append(append([]string{"-ovmf", dir + "/firmware", "-instance", testID}, args...), dir+"/web"))
	return out.String(), err
}

func TestLaunchWithIDBlock(t *testing.T) {
	dir, digest := launchImage(t)
	id, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	author, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	block := &idblock.Block{LaunchDigest: digest, ImageID: [16]byte{1}, GuestSVN: 3, Policy: snp.PolicyReserved1}
	put := func(b *idblock.Block, author *ecdsa.PrivateKey) {
		t.Helper()
		auth, err := idblock.Sign(b, id, author)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "block", b.Marshal())
		write(t, dir, "auth", auth.Marshal())
	}
	flags := []string{"-id-block", dir + "/block", "-id-auth", dir + "/auth"}
	put(block, author)
	text, err := printLaunch(t, dir, flags...)
	if err != nil {
		t.Fatal(err)
	}
	auth, _ := os.ReadFile(dir + "/auth")
	for _, want := range []string{",policy=0x20000,", ",id-block=" + base64.StdEncoding.EncodeToString(block.Marshal()) + ",",
		",id-auth=" + base64.StdEncoding.EncodeToString(auth) + ",author-key-enabled=on "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %.60q in %.300q", want, text)
		}
	}
	put(block, nil)
	if text, err = printLaunch(t, dir, flags...); err != nil || strings.Contains(text, "author-key") {
		t.Errorf("without an author key: %v, %.300q", err, text)
	}
	checkDomain(t, dir, flags...)

	// Blocks that the secure processor would refuse to start.
	other := *block
	other.LaunchDigest[0] ^= 1
	put(&other, nil)
	if _, err = printLaunch(t, dir, flags...); !is(err, code.LaunchDiffers) {
		t.Errorf("another digest: %v", err)
	}
	put(block, nil)
	if _, err = printLaunch(t, dir, append(flags, "-policy", "0x30000")...); !is(err, code.LaunchDiffers) {
		t.Errorf("another policy: %v", err)
	}
	debug := *block
	debug.Policy |= snp.PolicyDebug
	put(&debug, nil)
	if _, err = printLaunch(t, dir, flags...); !is(err, code.LaunchDiffers) {
		t.Errorf("a debug policy: %v", err)
	}
	put(block, nil)
	for i := range 96 {
		raw := block.Marshal()
		raw[i] ^= 1
		write(t, dir, "block", raw)
		if text, err := printLaunch(t, dir, flags...); err == nil || text != "" {
			t.Errorf("byte %d of the block changed: printed", i)
		}
	}
}

func is(err error, c code.Code) bool {
	got, _ := code.Of(err)
	return err != nil && got == c
}

// The domain is well-formed, says what was asked for, and is in libvirt's own
// schema where LIBVIRT_SCHEMAS names its folder (/usr/share/libvirt/schemas).
func TestLaunchDomain(t *testing.T) {
	dir, _ := launchImage(t)
	checkDomain(t, dir, "-disk", "/a&b<c>.img", "-disk", "d.img", "-disk-readonly", "/ro.img", "-net", "user", "-vsock-cid", "7")
	checkDomain(t, dir)
}

func checkDomain(t *testing.T, dir string, flags ...string) {
	t.Helper()
	text, err := printLaunch(t, dir, append(flags, "-format", "libvirt")...)
	if err != nil {
		t.Fatal(err)
	}
	var d domain
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	line, _ := os.ReadFile(dir + "/web/cmdline")
	if d.OS.Cmdline != string(line) || d.Security.KernelHashes != "yes" || d.Security.Type != "sev-snp" || d.OS.Kernel != dir+"/web/vmlinuz" {
		t.Errorf("read back: %+v", d)
	}
	schemas := os.Getenv("LIBVIRT_SCHEMAS")
	if schemas == "" {
		return
	}
	write(t, dir, "domain.xml", []byte(text))
	if out, err := exec.Command("xmllint", "--noout", "--relaxng", schemas+"/domain.rng", dir+"/domain.xml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
}
