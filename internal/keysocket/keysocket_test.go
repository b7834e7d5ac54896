package keysocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

// With ASK_PATH this program is a client: it binds ASK_FROM, connects, prints
// what it gets.
func TestMain(m *testing.M) {
	if path := os.Getenv("ASK_PATH"); path != "" {
		b, err := ask(path, os.Getenv("ASK_FROM"))
		fmt.Printf("%q %v\n", b, err != nil)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ask is what systemd-cryptsetup does; from is its own address.
func ask(path, from string) ([]byte, error) {
	var local *net.UnixAddr
	if from != "" {
		local = &net.UnixAddr{Name: from, Net: "unix"}
	}
	c, err := net.DialUnix("unix", local, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return io.ReadAll(c)
}

const theKey = "0123456789abcdef0123456789abcdef"

type server struct {
	path string
	done chan error
	key  *secret.Bytes
	log  *strings.Builder // read after done
}

func tmpfs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		testenv.Skip(t, "root: the socket's folder is root's alone")
	}
	dir, err := os.MkdirTemp("/dev/shm", "keysocket-*")
	if err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func serve(t *testing.T, ctx context.Context) *server {
	t.Helper()
	s := &server{path: filepath.Join(tmpfs(t), "run", "key.sock"), done: make(chan error, 1), key: secret.Copy([]byte(theKey)), log: new(strings.Builder)}
	sock, err := Listen(s.path, func(format string, args ...any) { fmt.Fprintf(s.log, format+"\n", args...) })
	if err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- sock.Serve(ctx, "root", s.key) }()
	return s
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestServesOnce(t *testing.T) {
	s := serve(t, within(t))
	got, err := ask(s.path, "@d6067cbdb49f8fd5/cryptsetup/root")
	if err != nil || string(got) != theKey {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	if s.key.Len() != 0 {
		t.Error("the key is not wiped")
	}
	if got, err := ask(s.path, "@d6067cbdb49f8fd6/cryptsetup/root"); err == nil || len(got) > 0 {
		t.Errorf("a second ask got %q, %v", got, err)
	}
}

// Whoever is not systemd-cryptsetup with this volume gets no byte, and does
// not keep it from getting the key.
func TestWrongPeers(t *testing.T) {
	s := serve(t, within(t))
	named := filepath.Join(filepath.Dir(s.path), "cryptsetup")
	for _, from := range []string{
		"",     // no address at all
		named,  // a path
		"@",    // abstract, chosen by the kernel
		"@d60", // no purpose
		"@/cryptsetup/root",
		"@d60/cryptsetup/other",
		"@d60/cryptsetup/roo",
		"@d60/cryptsetup/root2",
		"@d60/cryptsetup/",
		"@d60/cryptsetup/x/cryptsetup/root",
		"@d60/cryptsetup-tpm2/root",
		"@d60/cryptsetup-fido2-salt/root",
		"@D60/cryptsetup/root",
		"@0d60/cryptsetup/root",
		"@d60 /cryptsetup/root",
		"@d6067cbdb49f8fd51/cryptsetup/root",
		"@d60/x/cryptsetup/root",
		"@d60/cryptsetup/root\x00",
		"@d60/cryptsetup/root\x00x",
	} {
		if got, err := ask(s.path, from); len(got) > 0 {
			t.Errorf("peer %q got %q, %v", from, got, err)
		}
	}
	if got, err := ask(s.path, "@0/cryptsetup/root"); err != nil || string(got) != theKey {
		t.Errorf("the right one got %q, %v", got, err)
	}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(s.log.String(), "turned away"); n != 19 {
		t.Errorf("%d were turned away, want 19:\n%s", n, s.log)
	}
}

func TestPeerOfAnotherUser(t *testing.T) {
	s := serve(t, within(t))
	// The folder keeps others out; this looks at what happens if it did not.
	for _, p := range []string{filepath.Dir(filepath.Dir(s.path)), filepath.Dir(s.path), s.path} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(filepath.Dir(s.path), "client")
	if err := os.WriteFile(bin, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin)
	cmd.Env = []string{"ASK_PATH=" + s.path, "ASK_FROM=@d60/cryptsetup/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte(`"" `)) {
		t.Errorf("another user got %s, %v", out, err)
	}
	if got, err := ask(s.path, "@d60/cryptsetup/root"); err != nil || string(got) != theKey {
		t.Errorf("root got %q, %v", got, err)
	}
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.log.String(), "the peer is user 65534") {
		t.Errorf("log: %s", s.log)
	}
}

func TestNobodyAsks(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	s := serve(t, ctx)
	err := <-s.done
	if c, _ := code.Of(err); c != code.KeySocket || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if s.key.Len() != 0 {
		t.Error("the key is not wiped")
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A peer that goes away has had its chance.
func TestPeerGoesAway(t *testing.T) {
	a, b, err := unixPair()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	key := secret.Copy([]byte(theKey))
	defer key.Zero()
	if err := give(within(t), a, "root", key); err == nil {
		t.Error("no error")
	} else if c, _ := code.Of(err); c != code.KeySocket {
		t.Errorf("%v", err)
	}
}

func unixPair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var out [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
		out[i] = c.(*net.UnixConn)
	}
	return out[0], out[1], nil
}

func TestFolderOfTheSocket(t *testing.T) {
	dir := tmpfs(t)
	quiet := func(string, ...any) {}
	open := filepath.Join(dir, "open")
	os.Mkdir(open, 0o755)
	os.Symlink(dir, filepath.Join(dir, "link"))
	os.Chmod(dir, 0o700)
	for _, tc := range []struct {
		path string
		want code.Code
	}{
		{filepath.Join(open, "s"), code.KeySocket},
		{filepath.Join(dir, "link", "s"), code.KeySocket},
		{"/proc/s", code.KeySocket},
		{filepath.Join(t.TempDir(), "new", "s"), code.NotTmpfs},
	} {
		s, err := Listen(tc.path, quiet)
		if err == nil {
			s.Close()
		}
		if c, _ := code.Of(err); c != tc.want {
			if tc.want == code.NotTmpfs && applicable(tc.path) {
				continue // the tests' folder is a tmpfs itself
			}
			t.Errorf("%s: %v, want %s", tc.path, err, tc.want)
		}
	}
	taken := filepath.Join(dir, "taken")
	os.WriteFile(taken, nil, 0o600)
	if s, err := Listen(taken, quiet); err == nil {
		s.Close()
		t.Error("a path that is taken was used")
	}
}

func applicable(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(filepath.Dir(path), &st) == nil && st.Type == unix.TMPFS_MAGIC
}

func TestActivation(t *testing.T) {
	dir := tmpfs(t)
	quiet := func(string, ...any) {}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	dup := func() int {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	if _, err := fromFD(dup(), filepath.Join(dir, "other"), quiet); err == nil {
		t.Error("the socket of another path was taken")
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fromFD(null, path, quiet); err == nil {
		t.Error("/dev/null was taken for a socket")
	}
	s, err := fromFD(dup(), path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(within(t), "root", secret.Copy([]byte(theKey))) }()
	if got, err := ask(path, "@1/cryptsetup/root"); err != nil || string(got) != theKey {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// systemd's own descriptor is still open, and nobody waits at it for ever.
	if got, err := ask(path, "@1/cryptsetup/root"); err == nil {
		t.Errorf("a second ask got %q", got)
	}
	for _, env := range []map[string]string{{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}} {
		if s, err := Activated(func(k string) string { return env[k] }, path, quiet); s != nil || err != nil {
			t.Errorf("%v: %v, %v", env, s, err)
		}
	}
	me := map[string]string{"LISTEN_PID": fmt.Sprint(os.Getpid()), "LISTEN_FDS": "2"}
	if _, err := Activated(func(k string) string { return me[k] }, path, quiet); err == nil {
		t.Error("two descriptors were taken")
	}
}

func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Ready(func(string) string { return path }); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 32)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := Ready(func(string) string { return "" }); err != nil {
		t.Error(err)
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, s := range []string{
		"\x00d6067cbdb49f8fd5/cryptsetup/root", "\x000/cryptsetup/a", "", "\x00", "/run/x", "@d6/cryptsetup/root",
		"\x00d6/cryptsetup-tpm2/root", "\x00d6/cryptsetup/root\x00", "\x00d6/cryptsetup//root", "\x00/cryptsetup/root",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		volume, err := ParsePeer(b)
		if err != nil {
			return
		}
		var n uint64
		i := bytes.IndexByte(b, '/')
		if _, err := fmt.Sscanf(string(b[1:i]), "%x", &n); err != nil {
			t.Fatalf("%q has no number: %v", b, err)
		}
		if again := fmt.Sprintf("\x00%x/cryptsetup/%s", n, volume); again != string(b) {
			t.Errorf("%q accepted, means %q", b, again)
		}
	})
}
