package stockboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/appraise"
	"attestbox/internal/bootcount"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/sealed"
	"attestbox/internal/testenv"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

const goodLine = "init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume efi=noruntime systemd.import_credentials=no systemd.gpt_auto=no " +
	"root=/dev/mapper/root rd.shell=0 rd.emergency=poweroff\n"

// fakeHost is a machine whose disk is a file.
type fakeHost struct {
	line     string
	creds    []string
	mapping  error
	mounted  error
	counter  error
	secrets  []string
	instance wire.Hex32
	asked    []string // network, mapping
}

func (h *fakeHost) CommandLine() (string, error)   { return h.line, nil }
func (h *fakeHost) SysrqOff() error                { return nil }
func (h *fakeHost) Credentials() ([]string, error) { return h.creds, nil }
func (h *fakeHost) Instance(id wire.Hex32) error {
	h.instance = id
	return nil
}
func (h *fakeHost) Random(context.Context) error { return nil }
func (h *fakeHost) SameDevice(node, to string) error {
	h.asked = append(h.asked, node+" "+to)
	return h.mounted
}
func (h *fakeHost) Network(context.Context, config.Network) (string, error) {
	h.asked = append(h.asked, "network")
	return "none", nil
}
func (h *fakeHost) WaitDevice(context.Context, string) error { return nil }
func (h *fakeHost) Learn(io.Writer, int64, uint64) error     { return nil }
func (h *fakeHost) CheckMapping(n, d string, r *wire.HeaderRecord) error {
	h.asked = append(h.asked, n+" "+r.UUID)
	return h.mapping
}
func (h *fakeHost) Secrets(p *wire.Payload) error {
	for _, s := range p.Secrets {
		h.secrets = append(h.secrets, s.Name)
	}
	return nil
}
func (h *fakeHost) Counter(root string, b bootcount.Boot) (uint64, error) {
	h.asked = append(h.asked, fmt.Sprintf("%s %d after %d", root, b.Number, b.Committed))
	return 0, h.counter
}
func (h *fakeHost) Header(ctx context.Context, d string, r *wire.HeaderRecord, k *secret.Bytes) ([]byte, error) {
	return unlock.Header(ctx, d, r, k)
}

// world is a verifier and one VM with its disk.
type world struct {
	boot  *Boot
	host  *fakeHost
	log   *bytes.Buffer
	key   []byte
	disk  *disk.Result
	image string
	state *server.State
	psp   *snpsim.PSP
	id    [32]byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	ctx := context.Background()
	w := &world{log: new(bytes.Buffer), host: &fakeHost{line: goodLine}, image: filepath.Join(t.TempDir(), "img"), id: [32]byte{1}}
	key := secret.Random(32)
	defer key.Zero()
	w.key = bytes.Clone(key.Bytes())
	var err error
	if w.disk, err = disk.Build(ctx, key, disk.Options{Empty: true, Out: w.image, Size: 12 << 20, Integrity: luks.IntegrityHMAC}); err != nil {
		t.Fatal(err)
	}
	psp := snpsimtest.PSP(t, snp.Milan)
	w.psp = psp
	raw, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := server.MarshalPolicy(&appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{psp.Product(): {}}})
	if err != nil {
		t.Fatal(err)
	}
	w.state, err = server.CreateState(ctx, raw, sealed.Key{File: secret.Random(32)},
		server.Config{Roots: []server.Root{{Product: string(psp.Product()), ARK: psp.ARK(), Intermediates: [][]byte{}}}, Policy: policy}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.state.AddInstance(ctx, &server.Instance{ID: w.id, Created: time.Now().Unix(), OnSecond: "takeover",
		Measurements: []server.Measurement{{Digest: appraise.Hex48{2}.String(), Source: "test"}}, Headers: []wire.HeaderRecord{*w.disk.Record}},
		&server.Secrets{DiskKey: key, Named: []wire.NamedSecret{{Name: "db.password", Value: secret.Copy([]byte("x"))}}}); err != nil {
		t.Fatal(err)
	}
	appraiser, err := server.NewSNPAppraiser(ctx, w.state, func() (*appraise.Roots, error) { return appraise.NewRoots() }, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(ctx, server.Options{State: w.state, Appraiser: appraiser, Limits: server.Limits{PeerBurst: 1000, PeerRate: 1000, IDBurst: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(sctx, l) }()
	shm, err := os.MkdirTemp("/dev/shm", "stockboot-*")
	if err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	t.Cleanup(func() {
		cancel()
		<-done
		w.state.Close()
		os.RemoveAll(shm)
	})
	report := [32]byte{3}
	guest := psp.Launch(snpsim.GuestConfig{HostData: w.id, ReportID: &report, Measurement: [48]byte{2}})
	w.boot = &Boot{Kind: config.Dracut, Log: w.log, Dir: filepath.Join(shm, "run", "boot"), host: w.host,
		Config: &config.Config{Mode: config.SwitchRoot, Root: &config.Root{Device: w.image, Name: "root"}},
		Client: client.Config{Servers: []string{"tcp://" + l.Addr().String()}, Pins: []wire.Pin{srv.Pin()}},
		Open:   func() (platform.Platform, error) { return guest.Platform(), nil }}
	return w
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// fetched is a world after a good Fetch.
func fetched(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	key, err := w.boot.Fetch(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Zero()
	if !bytes.Equal(key.Bytes(), w.key) {
		t.Fatal("another key")
	}
	return w
}

func (w *world) files() (names []string) {
	entries, _ := os.ReadDir(w.boot.Dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFetchAndFinish(t *testing.T) {
	w := fetched(t)
	got, err := os.ReadFile(filepath.Join(w.boot.Dir, HeaderFile))
	if err != nil || !bytes.Equal(got, w.disk.Header) {
		t.Fatalf("header of %d bytes, %v", len(got), err)
	}
	for _, f := range append(w.files(), ".") {
		st, err := os.Stat(filepath.Join(w.boot.Dir, f))
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
	for _, f := range w.files() {
		if b, _ := os.ReadFile(filepath.Join(w.boot.Dir, f)); bytes.Contains(b, w.key) {
			t.Errorf("the key lies in %s", f)
		}
	}
	if len(w.host.secrets) != 1 || w.host.secrets[0] != "db.password" {
		t.Errorf("secrets for the real system: %q", w.host.secrets)
	}
	if err := w.boot.Finish(within(t, time.Minute), "/sysroot"); err != nil {
		t.Fatal(err)
	}
	if len(w.files()) > 0 {
		t.Errorf("left behind: %q", w.files())
	}
	if n := len(w.host.asked); n != 4 || w.host.asked[3] != "/sysroot 1 after 0" || w.host.asked[1] != "root "+w.disk.Record.UUID || w.host.asked[2] != "/dev/mapper/root /sysroot" {
		t.Errorf("looked at %q", w.host.asked)
	}
	// The verifier counts the boot as opened: nothing more for it.
	if _, err := w.boot.Fetch(within(t, time.Minute)); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a second fetch after opened: %v", err)
	}
}

// What is wrong with the machine is found before the verifier hears of it.
func TestRefusedBeforeFetch(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name string
		host fakeHost
		want code.Code
	}{
		{"a word that gives a shell", fakeHost{line: goodLine + " rd.break"}, code.BootOverride},
		{"no word against credentials", fakeHost{line: "root=/dev/mapper/root"}, code.BootParameter},
		{"credentials of the host", fakeHost{line: goodLine, creds: []string{"tmpfiles.extra"}}, code.BootOverride},
	} {
		w.boot.host = &tc.host
		_, err := w.boot.Fetch(within(t, time.Minute))
		if c, _ := code.Of(err); c != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
		if len(tc.host.asked) > 0 || len(w.files()) > 0 {
			t.Errorf("%s: %q was touched, %q written", tc.name, tc.host.asked, w.files())
		}
	}
	w.boot.Config.Mode = config.Run
	if _, err := w.boot.Fetch(within(t, time.Minute)); err == nil {
		t.Error("mode run was served")
	}
}

// Another header than the registered one gives no key and no file.
func TestDecoyDisk(t *testing.T) {
	w := newWorld(t)
	other := filepath.Join(t.TempDir(), "other")
	key := secret.Random(32)
	defer key.Zero()
	if _, err := disk.Build(context.Background(), key, disk.Options{Empty: true, Out: other, Size: 12 << 20, UUID: w.disk.Record.UUID, Integrity: luks.IntegrityHMAC}); err != nil {
		t.Fatal(err)
	}
	w.boot.Config.Root.Device = other
	got, err := w.boot.Fetch(within(t, time.Minute))
	if c, _ := code.Of(err); c != code.LUKSHeaderDigest || got != nil {
		t.Fatalf("%v", err)
	}
	if len(w.files()) > 0 {
		t.Errorf("left behind: %q", w.files())
	}
}

func TestFinishRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"another mapping":       func(w *world) { w.host.mapping = code.Wrap(code.DMTable, errors.New("x")) },
		"another disk mounted":  func(w *world) { w.host.mounted = code.Wrap(code.BootMount, errors.New("x")) },
		"an older disk":         func(w *world) { w.host.counter = code.Wrap(code.BootRollback, errors.New("x")) },
		"a credential came in":  func(w *world) { w.host.creds = []string{"x"} },
		"of another volume":     func(w *world) { w.boot.Config.Root.Device = "/dev/vdb" },
		"nothing was fetched":   func(w *world) { os.Remove(filepath.Join(w.boot.Dir, stateFile)) },
		"what was is malformed": func(w *world) { os.WriteFile(filepath.Join(w.boot.Dir, stateFile), []byte("{}x"), 0o600) },
		"no acknowledgement":    func(w *world) { w.boot.Client.Pins = []wire.Pin{{1}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := fetched(t)
			spoil(w)
			if err := w.boot.Finish(within(t, 3*time.Second), "/sysroot"); err == nil {
				t.Error("the real system would start")
			}
		})
	}
}

func TestFolder(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.boot.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if key, err := w.boot.Fetch(within(t, time.Minute)); err == nil || key != nil {
		t.Error("a folder that others may read was used")
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"volume":"root","device":"/dev/vda","record":{},"id":"","boot":1,"committed":0}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		readState(dir)
	})
}

// An image that brings its ID is that instance, and asks nothing where the host
// set HOST_DATA.
func TestImageBringsID(t *testing.T) {
	w := newWorld(t)
	w.boot.Config.InstanceID = &wire.Hex32{9}
	key, err := w.boot.Fetch(within(t, time.Minute))
	if c, _ := code.Of(err); c != code.HostDataSet {
		key.Zero()
		t.Errorf("HOST_DATA is set, and the image brings its ID: %v", err)
	}
	key = secret.Take(bytes.Clone(w.key))
	defer key.Zero()
	if err := w.state.AddInstance(t.Context(), &server.Instance{ID: wire.Hex32{9}, IDSource: server.IDFromImage, Created: time.Now().Unix(), OnSecond: "takeover",
		Measurements: []server.Measurement{{Digest: appraise.Hex48{4}.String(), Source: "test"}}, Headers: []wire.HeaderRecord{*w.disk.Record}}, &server.Secrets{DiskKey: key}); err != nil {
		t.Fatal(err)
	}
	guest := w.psp.Launch(snpsim.GuestConfig{Measurement: [48]byte{4}})
	w.boot.Open = func() (platform.Platform, error) { return guest.Platform(), nil }
	got, err := w.boot.Fetch(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	got.Zero()
	if w.host.instance != (wire.Hex32{9}) {
		t.Errorf("programs that ask later find %s", w.host.instance)
	}
}
