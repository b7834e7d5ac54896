package verifier

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/image"
	"attestbox/internal/luks"
	"attestbox/internal/measure"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"verifier": func() {
		env := applet.OSEnv("verifier")
		err := Applet.Run(context.Background(), env, os.Args[1:])
		applet.Print(env.Stderr, env.Name, err)
		os.Exit(applet.ExitCode(err))
	}})
}

func TestScripts(t *testing.T) { scripts(t, "init", "backup", "policy", "platform", "readers") }

// A digest that does not cover kernel, initramfs and command line is never
// registered, and neither is a decommissioned ID.
func TestAddInstanceRefuses(t *testing.T) { scripts(t, "instance") }

func scripts(t *testing.T, names ...string) {
	psp := snpsimtest.PSP(t, snp.Milan)
	var files []string
	for _, n := range names {
		files = append(files, filepath.Join("testdata", "script", n+".txtar"))
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error { return owner(env.WorkDir, psp) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "flip": flip, "shm": shm,
		},
	})
}

// exits N COMMAND... runs a command and wants this exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// shm VARIABLE sets it to a new folder on tmpfs.
func shm(ts *testscript.TestScript, _ bool, args []string) {
	dir, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	ts.Setenv(args[0], dir)
}

// owner makes what an owner has before the first command: a root, images, a
// seal key, a disk's header and key.
func owner(dir string, psp *snpsim.PSP) error {
	key := secret.Random(32)
	defer key.Zero()
	uuid, err := luks.NewUUID(rand32{})
	if err != nil {
		return err
	}
	header, vol, rec, err := luks.Format(key, luks.Params{UUID: uuid, Integrity: luks.IntegrityNone, SectorSize: 4096})
	if err != nil {
		return err
	}
	vol.Close()
	recJSON, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ark.pem":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: psp.ARK()}),
		"vcek.der":    psp.VCEK(),
		"seal.key":    random(32),
		"other.key":   random(32),
		"pass":        []byte("correct horse battery staple\n"),
		"disk.key":    bytes.Clone(key.Bytes()),
		"disk2.key":   random(32),
		"short.key":   []byte("short"),
		"header.json": recJSON,
		"header.img":  header,
		"db.password": []byte("sesame"),
		"tables.fd":   measure.SyntheticFirmware(),
	}
	for _, name := range []string{"platform.key", "platform2.key"} {
		k, _, err := simenclave.GenerateKey()
		if err != nil {
			return err
		}
		files[name] = bytes.Clone(k.Bytes())
		k.Zero()
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	for name, edit := range map[string]func(*image.Record){
		"image":      func(*image.Record) {},
		"debug":      func(r *image.Record) { r.Debug = true },
		"incomplete": func(r *image.Record) { r.Measurement.Complete, r.Measurement.Why = false, "no initramfs" },
		"lying":      func(r *image.Record) { r.Measurement.LaunchDigest = strings.Repeat("ab", 48) },
	} {
		if err := fakeImage(filepath.Join(dir, name), "kernel", "initrd of "+name, "console=ttyS0", edit); err != nil {
			return err
		}
	}
	var a image.Archive
	for _, p := range []string{"etc", "etc/attestbox"} {
		if err := a.AddDir(p, 0o755); err != nil {
			return err
		}
	}
	if err := a.AddFile("etc/attestbox/debug", 0o644, []byte("debug\n")); err != nil {
		return err
	}
	var initrd bytes.Buffer
	if err := a.Write(&initrd); err != nil {
		return err
	}
	return fakeImage(filepath.Join(dir, "hidden"), "kernel", initrd.String(), "console=ttyS0", func(*image.Record) {})
}

type rand32 struct{}

func (rand32) Read(b []byte) (int, error) { return copy(b, secret.Random(len(b)).Bytes()), nil }

// fakeImage writes an image folder as mkimage build does.
func fakeImage(dir, kernel, initrd, cmdline string, edit func(*image.Record)) error {
	res, err := measure.SNP(measure.Config{Firmware: measure.SyntheticFirmware(), HasKernel: true, Kernel: []byte(kernel), Initrd: []byte(initrd), Append: cmdline, VCPUs: 1, VCPUType: "EPYC-Milan"})
	if err != nil {
		return err
	}
	rec := image.Record{Format: 1, Simulator: true, Cmdline: cmdline, Measurement: &image.Measurement{
		LaunchDigest: fmt.Sprintf("%x", res.Digest), Complete: res.Complete, Synthetic: true, VCPUs: 1, VCPUType: "EPYC-Milan", GuestFeatures: 1, VMM: measure.QEMU,
	}}
	edit(&rec)
	b, err := rec.Marshal()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, c := range map[string][]byte{"image.json": b, "vmlinuz": []byte(kernel), "initrd": []byte(initrd), "cmdline": []byte(cmdline)} {
		if err := os.WriteFile(filepath.Join(dir, name), c, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// command1 runs one command in this process.
func command1(ctx context.Context, t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &applet.Env{Name: "verifier", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: os.Getenv}
	if err := Applet.Run(ctx, env, args); err != nil {
		applet.Print(&errs, env.Name, err)
		t.Errorf("verifier %s: exit %d\n%s", strings.Join(args, " "), applet.ExitCode(err), errs.String())
	}
	return out.String(), errs.String()
}

// serve starts `verifier serve` on a free port and returns its address.
func serve(t *testing.T, dir string) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		env := &applet.Env{Name: "verifier", Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: w, Getenv: os.Getenv}
		err := Applet.Run(ctx, env, []string{"serve", "-state", filepath.Join(dir, "st"), "-seal-key", filepath.Join(dir, "seal.key"), "-listen", "tcp://127.0.0.1:0", "-log-json"})
		w.CloseWithError(io.EOF)
		done <- err
	}()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if a, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			address = a
			break
		}
	}
	if address == "" {
		t.Fatalf("the server did not start: %v", <-done)
	}
	go io.Copy(io.Discard, r)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return address, stop
}

// The whole life of an instance by the command line, with the tools at work
// beside the running server.
func TestServe(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	psp := snpsimtest.PSP(t, snp.Milan)
	if err := owner(dir, psp); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	seal := []string{"-state", in("st"), "-seal-key", in("seal.key")}
	with := func(first []string, rest ...string) []string { return append(append(first, seal...), rest...) }
	pinText, _ := command1(ctx, t, with([]string{"init"}, "-root", in("ark.pem"))...)
	var pin wire.Pin
	if err := pin.UnmarshalText([]byte(strings.TrimSpace(pinText))); err != nil {
		t.Fatal(err)
	}
	address, stop := serve(t, dir)
	idText, said := command1(ctx, t, with([]string{"add-instance"}, "-id", "new", "-image", in("image"), "-disk-key", in("disk.key"), "-header", in("header.img"), "-secret", "db="+in("db.password"))...)
	var id wire.Hex32
	if err := id.UnmarshalText([]byte(strings.TrimSpace(idText))); err != nil {
		t.Fatal(err)
	}
	digestText := strings.Fields(said[strings.Index(said, "launch digest "):])[2]
	var digest [48]byte
	if _, err := hex.Decode(digest[:], []byte(digestText[:96])); err != nil {
		t.Fatalf("%q: %v", said, err)
	}
	g := psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id})
	cfg := client.Config{Servers: []string{address}, Pins: []wire.Pin{pin}, Platform: g.Platform()}
	rel, err := client.Launch(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	if out, _ := command1(ctx, t, with([]string{"instance", "show"}, id.String())...); !strings.Contains(out, "UNFINISHED") {
		t.Errorf("an unfinished boot is not shown:\n%s", out)
	}
	if _, err := rel.Report(ctx, wire.ResultOpened, "", nil); err != nil {
		t.Fatal(err)
	}
	out, _ := command1(ctx, t, with([]string{"instance", "list"}, "-json")...)
	var list []struct {
		ID    wire.Hex32 `json:"id"`
		State string     `json:"state"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].ID != id || list[0].State != "up" {
		t.Errorf("list: %+v, %v\n%s", list, err, out)
	}
	// The evidence of a changed image, explained.
	digest[0] ^= 1
	cfg.Platform = psp.Launch(snpsim.GuestConfig{Measurement: digest, HostData: id}).Platform()
	_, err = client.Launch(ctx, cfg)
	ans, ok := errors.AsType[*wire.AnswerError](err)
	if !ok {
		t.Fatalf("changed image: %v", err)
	}
	out, _ = command1(ctx, t, with([]string{"explain"}, ans.Exchange.String())...)
	for _, want := range []string{"measurement-unknown", "MEASUREMENT", fmt.Sprintf("%x", digest), digestText[:96], "NOT AMD HARDWARE"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain lacks %q:\n%s", want, out)
		}
	}
	command1(ctx, t, with([]string{"instance", "decommission"}, id.String())...)
	cfg.Platform = g.Platform()
	if _, err := client.Launch(ctx, cfg); err == nil {
		t.Error("a decommissioned instance was served")
	}
	// A second server on the folder is refused while this one runs.
	var errs bytes.Buffer
	err = Applet.Run(ctx, &applet.Env{Name: "verifier", Stdout: io.Discard, Stderr: &errs}, with([]string{"serve"}, "-listen", "tcp://127.0.0.1:0"))
	if applet.ExitCode(err) != applet.ExitLater {
		t.Errorf("second server: %v, exit %d", err, applet.ExitCode(err))
	}
	stop()
	if out, _ := command1(ctx, t, with([]string{"pin"})...); strings.TrimSpace(out) != pin.String() {
		t.Errorf("pin after the server stopped: %q", out)
	}
}

// random is for files; the pages of a secret.Bytes go when nobody holds it.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
