package snpsim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/idblock"
	"attestbox/internal/measure"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/snpsim/snpsimtest"
)

const hostData = "1111111111111111111111111111111111111111111111111111111111111111"

// image is a kernel, an initramfs and a chip in a folder.
type image struct {
	dir, kernel, initrd, chip string
	vcek                      *x509.Certificate
}

func newImage(t *testing.T, modules ...string) *image {
	t.Helper()
	kernel := guesttest.Kernel(t)
	files := guesttest.Modules(t, append(append([]string{}, guesttest.Virtio...), append(modules, "drivers/char/virtio_console")...)...)
	files = append(files, guesttest.File{Name: "init", Mode: 0o755, Data: guesttest.Build(t, "testdata/guest")})
	im := &image{dir: t.TempDir()}
	im.kernel, im.initrd, im.chip = filepath.Join(im.dir, "vmlinuz"), filepath.Join(im.dir, "initrd"), filepath.Join(im.dir, "chip")
	for path, data := range map[string][]byte{im.kernel: kernel, im.initrd: guesttest.Initramfs(files...)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	psp := snpsimtest.PSP(t, snp.Milan)
	if err := psp.Save(im.chip); err != nil {
		t.Fatal(err)
	}
	var err error
	if im.vcek, err = x509.ParseCertificate(psp.VCEK()); err != nil {
		t.Fatal(err)
	}
	return im
}

func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, talk bytes.Buffer
	env := &applet.Env{Name: "snp-sim", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Getenv: func(string) string { return "" }}
	err = Run(ctx, env, args)
	return out.String(), talk.String(), err
}

// idBlock signs an ID block for a launch and gives the flags that pass it.
func (im *image) idBlock(t *testing.T, digest [48]byte, policy snp.GuestPolicy) (*idblock.Block, []string) {
	t.Helper()
	keys := [2]*ecdsa.PrivateKey{}
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	b := &idblock.Block{LaunchDigest: digest, ImageID: [16]byte{'w', 'e', 'b'}, GuestSVN: 7, Policy: policy}
	a, err := idblock.Sign(b, keys[0], keys[1])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	block, auth := filepath.Join(dir, "id-block"), filepath.Join(dir, "id-auth")
	for path, data := range map[string][]byte{block: b.Marshal(), auth: a.Marshal()} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b, []string{"-id-block", block, "-id-auth", auth, "-author-key-enabled"}
}

var reportRE = regexp.MustCompile(`(?m)^report ([0-9a-f]+)$`)

// The guest's report shows the digest of exactly what was booted, and what the
// host said.
func TestRunReports(t *testing.T) {
	im := newImage(t)
	cmdline := guesttest.CommandLine + " test=report"
	kernel, _ := os.ReadFile(im.kernel)
	initrd, _ := os.ReadFile(im.initrd)
	want, err := measure.SNP(measure.Config{Firmware: measure.SyntheticFirmware(), HasKernel: true, Kernel: kernel, Initrd: initrd,
		Append: cmdline, VCPUs: 2, VCPUType: "EPYC-Milan"})
	if err != nil || !want.Complete {
		t.Fatal(err, want)
	}
	args := []string{"-chip", im.chip, "-kernel", im.kernel, "-initrd", im.initrd, "-append", cmdline,
		"-host-data", hostData, "-policy", "0xb0000", "-vcpus", "2", "-memory", "384M", "-net", "user", "-debug-measure"}
	block, idArgs := im.idBlock(t, want.Digest, 0xb0000)
	other, otherArgs := im.idBlock(t, [48]byte{1}, 0xb0000)
	if _, _, err := run(t, append(args, otherArgs...)...); applet.ExitCode(err) != applet.ExitRefused || !strings.Contains(err.Error(), "BAD_MEASUREMENT") {
		t.Errorf("ID block %x: %v", other.LaunchDigest[:4], err)
	}
	out, talk, err := run(t, append(args, idArgs...)...)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, talk, out)
	}
	m := reportRE.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no report on the console:\n%s\n%s", out, talk)
	}
	raw, _ := hex.DecodeString(m[1])
	r, err := snp.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r.Measurement != want.Digest {
		t.Errorf("MEASUREMENT %x, want %x", r.Measurement, want.Digest)
	}
	if hex.EncodeToString(r.HostData[:]) != hostData || r.Policy != 0xb0000 {
		t.Errorf("HOST_DATA %x, policy %#x", r.HostData, r.Policy)
	}
	if r.ImageID != block.ImageID || r.GuestSVN != block.GuestSVN || r.IDKeyDigest == [48]byte{} || r.AuthorKeyDigest == [48]byte{} || !r.KeyInfo.AuthorKeyEn() {
		t.Errorf("what the ID block says is not in the report: %+v", r)
	}
	if !strings.HasPrefix(string(r.ReportData[:]), "from the test's guest") {
		t.Errorf("REPORT_DATA %q", r.ReportData)
	}
	digest := sha512.Sum384(snp.SignedBytes(raw))
	sr, ss, err := r.SignatureRS()
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.Verify(im.vcek.PublicKey.(*ecdsa.PublicKey), digest[:], sr, ss) {
		t.Error("the report is not signed by the chip")
	}
	for _, want := range []string{hex.EncodeToString(want.Digest[:]), "NOT AMD HARDWARE", "synthetic", "the guest powered off", "kernel hashes"} {
		if !strings.Contains(talk, want) {
			t.Errorf("stderr lacks %q:\n%s", want, talk)
		}
	}
}

func TestRunFailures(t *testing.T) {
	im := newImage(t)
	base := []string{"-chip", im.chip, "-kernel", im.kernel, "-initrd", im.initrd}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"timeout":  {append(base, "-append", guesttest.CommandLine+" test=hang", "-timeout", "2s"), "still running after 2s"},
		"panic":    {append(base, "-append", guesttest.CommandLine+" test=panic"), "reset itself"},
		"disk":     {append(base, "-disk", filepath.Join(im.dir, "none")), "disk image"},
		"bad qmp":  {append(base, "-qmp", filepath.Join(im.dir, "no/such/folder")), "QEMU"},
		"firmware": {append(base, "-ovmf", im.kernel), "measur"},
		"no chip":  {[]string{"-chip", im.dir, "-kernel", im.kernel}, "chip"},
		"no qemu":  {append(base, "-qemu", "no-such-qemu"), "no usable QEMU"},
	} {
		t.Run(name, func(t *testing.T) {
			out, talk, err := run(t, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) || applet.ExitCode(err) != applet.ExitFailure {
				t.Errorf("%v (exit %d), want exit 1 and %q\n%s\n%s", err, applet.ExitCode(err), tc.want, talk, out)
			}
		})
	}
}

func TestRunUsage(t *testing.T) {
	ok := []string{"-chip", "c", "-kernel", "k"}
	for name, args := range map[string][]string{
		"image and kernel": append(ok, "-image", "i"), "image and append": {"-chip", "c", "-image", "i", "-append", "x"},
	} {
		if _, _, err := run(t, args...); applet.ExitCode(err) != applet.ExitUsage || !strings.Contains(err.Error(), "excludes") {
			t.Errorf("%s: %v, exit %d", name, err, applet.ExitCode(err))
		}
	}
	if _, _, err := run(t, "-chip", "c", "-image", t.TempDir()); applet.ExitCode(err) != applet.ExitFailure || !strings.Contains(err.Error(), "cmdline") {
		t.Errorf("no image: %v", err)
	}
	for name, args := range map[string][]string{
		"nothing": {}, "no kernel": {"-chip", "c"}, "no chip": {"-kernel", "k"}, "argument": append(ok, "x"),
		"host data": append(ok, "-host-data", "11"), "policy": append(ok, "-policy", "zz"), "memory": append(ok, "-memory", "12K"),
		"net": append(ok, "-net", "tap"), "vcpu type": append(ok, "-vcpu-type", "i486"), "features": append(ok, "-guest-features", "x"),
		"timeout": append(ok, "-timeout", "-1s"), "append": append(ok, "-append", strings.Repeat("x", 4096)), "flag": append(ok, "-nope"),
		"forward": append(ok, "-vsock-forward", "8451"), "forward twice": append(ok, "-vsock-forward", "1=a:1", "-vsock-forward", "1=a:2"),
		"listen":         append(ok, "-vsock-listen", "127.0.0.1:1"),
		"ID block alone": append(ok, "-id-block", "x"), "author key alone": append(ok, "-author-key-enabled"),
		"cid": append(ok, "-vsock-forward", "1=a:1", "-vsock-cid", "2"),
	} {
		if _, _, err := run(t, args...); applet.ExitCode(err) != applet.ExitUsage {
			t.Errorf("%s: %v, exit %d", name, err, applet.ExitCode(err))
		}
	}
	out, _, err := run(t, "-h")
	if applet.ExitCode(err) != applet.ExitOK || !strings.Contains(out, "-host-data") {
		t.Errorf("help: %v\n%s", err, out)
	}
}

// The report comes over vsock to a Unix socket, with no network device.
func TestRunVsock(t *testing.T) {
	im := newImage(t, "net/vmw_vsock/vsock", "net/vmw_vsock/vmw_vsock_virtio_transport_common", "net/vmw_vsock/vmw_vsock_virtio_transport")
	socket := filepath.Join(im.dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		b, _ := io.ReadAll(c)
		c.Close()
		got <- string(b)
	}()
	console := filepath.Join(im.dir, "console")
	stdout, talk, err := run(t, "-chip", im.chip, "-kernel", im.kernel, "-initrd", im.initrd, "-console", console, "-timestamps",
		"-append", guesttest.CommandLine+" test=vsock", "-vsock-forward", "8451=unix:"+socket)
	written, rerr := os.ReadFile(console)
	if rerr != nil || stdout != "" {
		t.Errorf("%v, on stdout %q", rerr, stdout)
	}
	out := string(written)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, talk, out)
	}
	l.Close()
	if s := <-got; s != "hello from CID 3" {
		t.Errorf("the host's socket got %q\n%s\n%s", s, talk, out)
	}
	if !strings.Contains(out, "] port 9: refused\n") {
		t.Errorf("a port without -vsock-forward was not refused:\n%s", out)
	}
}

func TestParseForward(t *testing.T) {
	for in, want := range map[string]target{
		"8451=127.0.0.1:8451": {"tcp", "127.0.0.1:8451"}, "1=[::1]:2": {"tcp", "[::1]:2"}, "7=unix:/a=b": {"unix", "/a=b"},
	} {
		if _, got, err := parseForward(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "=", "1=", "x=a:1", "0=a:1", "4294967295=a:1", "1=unix:", "1=:5", "1=host", "-1=a:1"} {
		if _, got, err := parseForward(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}
