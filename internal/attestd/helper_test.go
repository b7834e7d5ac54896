package attestd

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

// fakeMeasurer takes for measured what lies in one folder, and lets system
// libraries pass, which a test binary built with -race has mapped.
type fakeMeasurer struct{ dir string }

func (m fakeMeasurer) Kind(f *os.File) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	for _, d := range []string{m.dir + "/", "/usr/lib/", "/lib/"} {
		if strings.HasPrefix(path, d) {
			return KindImage, nil
		}
	}
	return "", nil
}

func (m fakeMeasurer) Measure(f *os.File, kind string) (Program, error) {
	h := sha256.New()
	_, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<30))
	return Program{kind, "sha256", h.Sum(nil)}, err
}

// lockedBuffer is a log that can be waited on.
type lockedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // closed by the next write
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.b.Write(b)
}

// waitFor waits until a line holds every one of these texts.
func (l *lockedBuffer) waitFor(t *testing.T, texts ...string) string {
	t.Helper()
	ctx := testContext(t)
	for {
		l.mu.Lock()
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more, log := l.more, l.b.String()
		l.mu.Unlock()
	next:
		for line := range strings.Lines(log) {
			for _, s := range texts {
				if !strings.Contains(line, s) {
					continue next
				}
			}
			return line
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("no line of the log holds %q", texts)
		}
	}
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is a server with a socket in a folder of its own, and a folder of
// measured programs.
type world struct {
	t      testing.TB
	dir    string // unmeasured
	bin    string // measured
	socket string
	l      *net.UnixListener
	o      Options
	key    ed25519.PrivateKey
	chain  [][]byte
	log    *lockedBuffer
	start  func()
	stop   func() error
}

// newWorld starts a server, unless later is set: then start does.
func newWorld(t testing.TB, later bool, edit func(*Options)) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, bin: filepath.Join(dir, "bin"), socket: filepath.Join(dir, "s"), log: &lockedBuffer{}}
	if err := os.Mkdir(w.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	w.key, w.chain = identityForTest(t, time.Now().Add(time.Hour))
	root := secret.Random(RootSize)
	w.o = Options{
		Root: func(context.Context) (*secret.Bytes, error) { return secret.Copy(root.Bytes()), nil }, Measurer: fakeMeasurer{w.bin},
		Identity: func(context.Context) (crypto.Signer, [][]byte, error) { return w.key, w.chain, nil },
		Log:      slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if edit != nil {
		edit(&w.o)
	}
	s := New(w.o)
	if w.l, err = Listen(w.socket, -1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var once, ended sync.Once
	w.start = func() { once.Do(func() { go func() { done <- s.Serve(ctx, w.l) }() }) }
	var result error
	w.stop = func() error {
		ended.Do(func() {
			w.start()
			cancel()
			result = <-done
		})
		return result
	}
	t.Cleanup(func() {
		w.stop()
		root.Zero()
		if t.Failed() {
			t.Logf("attestd's log:\n%s", w.log)
		}
	})
	if !later {
		w.start()
	}
	return w
}

// identityForTest is a key with a certificate of its own making.
func identityForTest(t testing.TB, notAfter time.Time) (ed25519.PrivateKey, [][]byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vm"}, NotBefore: time.Unix(0, 0), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, [][]byte{der}
}

// program is this test binary under another name; a tail makes its digest
// another one.
func (w *world) program(dir, name, tail string) string {
	w.t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, append(self, tail...), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// measured is a program that is measured; unmeasured one that is not.
func (w *world) measured(name string) string {
	w.t.Helper()
	if maps, _ := os.ReadFile("/proc/self/maps"); os.Getuid() != 0 && bytes.Contains(maps, []byte("/libc.so")) {
		testenv.Skip(w.t, "root, to examine the libraries of a test binary that has some (or CGO_ENABLED=0, without -race)")
	}
	return w.program(w.bin, name, name)
}
func (w *world) unmeasured() string { return w.program(w.dir, "stray", "") }

// child is a program in one of the modes of TestMain.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (w *world) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "ATTESTD_TEST_CHILD=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

func (w *world) spawn(path string, args ...string) *child {
	w.t.Helper()
	c := &child{Cmd: w.command(path, args...)}
	c.in, _ = c.StdinPipe()
	out, _ := c.StdoutPipe()
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		c.in.Close()
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// line is the next line that the child says.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the child ended: %q, %v", s, err)
	}
	return strings.TrimSpace(s)
}

// run runs a child to its end: what it said, word by word, and as bytes.
func (w *world) run(in []byte, path string, args ...string) string {
	w.t.Helper()
	cmd := w.command(path, args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %q: %v", path, args, err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// dial is a connection of the test process itself, which is unmeasured.
func (w *world) dial() *Client {
	w.t.Helper()
	c, err := Dial(testContext(w.t), w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

func wantCode(t *testing.T, what string, err error, want code.Code) {
	t.Helper()
	if k, _ := code.Of(err); err == nil || k != want {
		t.Errorf("%s: %v, code %q; want %q", what, err, k, want)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("ATTESTD_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	if err := childMain(os.Args[1], os.Args[2:]); err != nil {
		k, _ := code.Of(err)
		fmt.Printf("error %s: %v\n", k, err)
		if k == "" && !errors.As(err, new(*RemoteError)) {
			os.Exit(1)
		}
	}
}
