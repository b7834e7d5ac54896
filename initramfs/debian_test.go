package initramfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/initramfs/config"
	"attestbox/internal/bootcount"
	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

const debianLine = "root=/dev/mapper/root rootfstype=ext4 ro console=ttyS0 init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume " +
	"efi=noruntime systemd.import_credentials=no systemd.gpt_auto=no\n"

// debianBoot is a boot on a folder, with a disk of the verifier's.
type debianBoot struct {
	*debian
	key, header []byte
	outcomes    []string
	ready       chan struct{}
	done        chan error
	out         *strings.Builder
}

func newDebianBoot(t *testing.T) *debianBoot {
	t.Helper()
	in, _, out := fakeInit(t)
	b := &debianBoot{debian: newDebian(in), out: out, ready: make(chan struct{}), done: make(chan error, 1)}
	key := secret.Random(32)
	header, v, record, err := luks.Format(key, luks.Params{UUID: "01234567-89ab-cdef-0123-456789abcdef", Integrity: luks.IntegrityNone})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	b.key, b.header = bytes.Clone(key.Bytes()), header
	disk := bytes.Clone(header)
	disk = append(disk, make([]byte, 1<<16)...)
	put(t, in, "/dev/vda", string(disk))
	put(t, in, debianCrypttab, (&config.Crypttab{Name: "root", Device: "/dev/vda"}).Line())
	put(t, in, "/proc/cmdline", debianLine)
	put(t, in, "/proc/sys/kernel/sysrq", "438\n")
	put(t, in, config.DebianPath, `{"servers":["tcp://a:1"],"pins":["sha256:6a3f00112233445566778899aabbccddeeff00112233445566778899aabbccdd"],"network":{"method":"dhcp"}}`)
	in.deps.Open = func() (platform.Platform, error) { return noPlatform{}, nil }
	in.deps.network = func(context.Context) (string, error) { return "up", nil }
	in.deps.waitDevice = func(context.Context, string) error { return nil }
	in.deps.Launch = func(context.Context, *Init, platform.Platform) (*release, error) {
		p := &wire.Payload{Boot: 3, DiskKey: key, OutcomeKey: secret.Random(32), Headers: []wire.HeaderRecord{*record},
			Secrets: []wire.NamedSecret{{Name: "token", Value: secret.Copy([]byte("abc"))}}}
		report := func(_ context.Context, result string, reason code.Code, headers []wire.Hex32) (*wire.Ack, error) {
			b.outcomes = append(b.outcomes, result+" "+string(reason))
			return &wire.Ack{Boot: 3}, nil
		}
		return &release{payload: p, exchange: "feed", from: "fake", report: report, close: p.Zero}, nil
	}
	b.checks.mapping = func(name string, disk *os.File, r *wire.HeaderRecord) (uint64, error) { return 7, nil }
	b.checks.mounted = func(string, uint64) error { return nil }
	b.checks.tmpfs = func(string) error { return nil }
	return b
}

// start runs the daemon until it is ready.
func (b *debianBoot) start(t *testing.T) {
	t.Helper()
	go func() {
		err := b.run(t.Context(), func() error { close(b.ready); return nil })
		if err != nil {
			b.reportFailure(err)
		}
		b.wipe()
		b.done <- err
	}()
	select {
	case <-b.ready:
	case err := <-b.done:
		b.done <- err
	}
}

// ask is what a stage does.
func (b *debianBoot) ask(t *testing.T, line string) string {
	t.Helper()
	c, err := net.Dial("unix", b.path(debianSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, line)
	answer, _ := io.ReadAll(c) // a reset is no answer either
	return string(answer)
}

func TestDebianStages(t *testing.T) {
	b := newDebianBoot(t)
	b.start(t)
	file := b.path("/run/attestbox/root.hdr")
	st, err := os.Stat(file)
	if err != nil || st.Mode() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if got, _ := os.ReadFile(file); !bytes.Equal(got, b.header) {
		t.Error("the header for cryptsetup is not the one that was checked")
	}
	if sysrq, _ := os.ReadFile(b.path("/proc/sys/kernel/sysrq")); string(sysrq) != "0\n" {
		t.Errorf("sysrq is %q", sysrq)
	}
	if got := b.ask(t, "key root 0:0\n"); got != string(b.key) {
		t.Errorf("the key is %x", got)
	}
	os.Mkdir(b.path("/root"), 0o700)
	if got := b.ask(t, "bottom /root\n"); got != debianDone {
		t.Errorf("bottom: %q", got)
	}
	if err := <-b.done; err != nil || strings.Join(b.outcomes, ",") != "opened " {
		t.Errorf("%v, outcomes %q", err, b.outcomes)
	}
	if got, _ := os.ReadFile(filepath.Join(b.path(secretsDir), "token")); string(got) != "abc" {
		t.Errorf("the named secret is %q", got)
	}
	if got, _ := os.ReadFile(b.path("/root/.attestbox/boot")); !bytes.Equal(got, bootcount.Marshal(3)) {
		t.Errorf("the volume's boot counter is %q", got)
	}
	if _, err := os.Stat(b.path(debianSocket)); err == nil {
		t.Error("the socket is left behind")
	}
	if k := b.rel.payload.DiskKey; bytes.Contains(k.Bytes(), b.key[:8]) {
		t.Error("the key is still there")
	}
}

// Whatever comes out of order, for something else, or twice, ends the boot; the
// key is given once, and the verifier hears of it.
func TestDebianStagesGoAstray(t *testing.T) {
	const key, bottom = "key root 0:0\n", "bottom /root\n"
	for _, lines := range [][]string{
		{bottom}, {"closed\n"}, {"\n"}, {"key\n"}, {"key root\n"}, {"key other 0:0\n"}, {"key root 8:0\n"}, {"key root 0:0 x\n"},
		{strings.Repeat("x", 5000)}, {key, key}, {key, "closed\n"}, {key, "bottom\n"}, {key, "bottom root\n"}, {key, "bottom / /\n"},
	} {
		b := newDebianBoot(t)
		b.start(t)
		for i, line := range lines {
			got := b.ask(t, line)
			if last := i == len(lines)-1; last && got != "" || !last && got != string(b.key) {
				t.Errorf("%.20q: answer %q to %.20q", lines, got, line)
			}
		}
		err := <-b.done
		wantCode(t, err, code.BootStage)
		if strings.Join(b.outcomes, ",") != "failed boot-stage" {
			t.Errorf("%.20q: outcomes %q", lines, b.outcomes)
		}
	}
}

func TestDebianRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(b *debianBoot)
		want   code.Code
	}{
		"changed header": {func(b *debianBoot) { b.flip("/dev/vda", 40000) }, code.LUKSHeaderDigest},
		"short disk":     {func(b *debianBoot) { os.Truncate(b.path("/dev/vda"), 4096) }, code.LUKSTruncated},
		"no tmpfs": {func(b *debianBoot) {
			b.checks.tmpfs = func(string) error { return code.Wrap(code.NotTmpfs, errors.New("ext4")) }
		}, code.NotTmpfs},
		"header file is there": {func(b *debianBoot) { b.write("/run/attestbox/root.hdr", "mine") }, ""},
		"no crypttab":          {func(b *debianBoot) { b.write(debianCrypttab, "") }, code.ConfigBad},
		"break":                {func(b *debianBoot) { b.write("/proc/cmdline", "break=mount "+debianLine) }, code.BootOverride},
		"UUID root": {func(b *debianBoot) {
			b.write("/proc/cmdline", strings.Replace(debianLine, "/dev/mapper/root", "UUID=1", 1))
		}, code.BootOverride},
		"no panic":          {func(b *debianBoot) { b.write("/proc/cmdline", strings.Replace(debianLine, "panic=1", "", 1)) }, code.BootParameter},
		"own init's config": {func(b *debianBoot) { b.write(config.DebianPath, `{"mode":"run"}`) }, code.ConfigBad},
	} {
		b := newDebianBoot(t)
		tt.change(b)
		b.start(t)
		err := <-b.done
		if c, _ := code.Of(err); err == nil || c != tt.want {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-b.ready:
			t.Errorf("%s: the keyscript could have come", name)
		default:
		}
	}
}

func (b *debianBoot) write(name, content string) {
	os.MkdirAll(filepath.Dir(b.path(name)), 0o755)
	os.WriteFile(b.path(name), []byte(content), 0o644)
}

func (b *debianBoot) flip(name string, at int) {
	data, _ := os.ReadFile(b.path(name))
	data[at] ^= 1
	b.write(name, string(data))
}

// After the key was given: what is mapped or mounted is something else, or the
// verifier does not answer.
func TestDebianBottomRefuses(t *testing.T) {
	for want, change := range map[code.Code]func(b *debianBoot){
		code.DMTable: func(b *debianBoot) {
			b.checks.mapping = func(string, *os.File, *wire.HeaderRecord) (uint64, error) {
				return 0, code.Wrap(code.DMTable, errors.New("another table"))
			}
		},
		code.BootMount: func(b *debianBoot) { b.checks.mounted = rootIs },
		code.OutcomeUnsent: func(b *debianBoot) {
			b.rel.report = func(context.Context, string, code.Code, []wire.Hex32) (*wire.Ack, error) {
				return nil, errors.New("no acknowledgement")
			}
		},
	} {
		b := newDebianBoot(t)
		b.start(t)
		change(b)
		os.Mkdir(b.path("/root"), 0o700)
		b.ask(t, "key root 0:0\n")
		if got := b.ask(t, "bottom /root\n"); got != "" {
			t.Errorf("%s: bottom was told %q", want, got)
		}
		wantCode(t, <-b.done, want)
		if strings.Contains(strings.Join(b.outcomes, ","), "opened") {
			t.Errorf("%s: outcomes %q", want, b.outcomes)
		}
	}
}

// A boot that stops on its way ends by itself.
func TestDebianTimeout(t *testing.T) {
	for _, lines := range []string{"", "key root 0:0\n"} {
		b := newDebianBoot(t)
		file, _ := os.ReadFile(b.path(config.DebianPath))
		b.write(config.DebianPath, strings.Replace(string(file), "{", `{"timeout":"2s",`, 1))
		b.start(t)
		if lines != "" {
			b.ask(t, lines)
		}
		wantCode(t, <-b.done, code.BootTimeout)
	}
}
