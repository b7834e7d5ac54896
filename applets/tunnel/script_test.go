package tunnel_test

import (
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	"attestbox/internal/client/domaintest"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/testenv"
)

func TestMain(m *testing.M) {
	main := func() { os.Exit(applets.Main(os.Args)) }
	testscript.Main(m, map[string]func(){"attestbox": main, "certify": main, "tunnel": main})
}

// Two simulated enclaves of one domain, a and b, with a program behind b that
// answers each stream once it has ended.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error { return world(t, env) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "ask": ask, "await": await,
		},
	})
}

func world(t *testing.T, env *testscript.Env) error {
	d := domaintest.New(t, "a.example", time.Now())
	ps := d.NewPolicyServer(t)
	run, err := os.MkdirTemp("/dev/shm", "tunnel-test-*")
	if err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	env.Defer(func() { os.RemoveAll(run) })
	for _, name := range []string{"a", "b"} {
		key, _, err := simenclave.GenerateKey()
		if err != nil {
			return err
		}
		err = os.WriteFile(filepath.Join(env.WorkDir, name+".key"), key.Bytes(), 0o600)
		key.Zero()
		if err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "policy.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Policy.Raw}), 0o600); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	env.Defer(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					c.Write(append([]byte("echo "), b...))
				}
			}()
		}
	}()
	env.Setenv("SERVER", ps.Listen())
	env.Setenv("PIN", ps.Pin().String())
	env.Setenv("ECHO", l.Addr().String())
	env.Setenv("RUN", run)
	return nil
}

// ask SOCKET TEXT ANSWER sends a text, ends it, and insists on the answer; with
// ! there must be none.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("unix", args[0])
	ts.Check(err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, args[1])
	c.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(c)
	if neg {
		if len(b) > 0 {
			ts.Fatalf("got %q", b)
		}
		return
	}
	if err != nil || string(b) != args[2] {
		ts.Fatalf("got %q, %v", b, err)
	}
}

// await FILE TEXT waits until the file holds the text somewhere.
func await(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(b), args[1]) {
			return
		}
	}
	b, _ := os.ReadFile(ts.MkAbs(args[0]))
	ts.Fatalf("%s does not say %q: %s", args[0], args[1], b)
}

// exits CODE PROGRAM ARGS... runs the program and insists on its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}
