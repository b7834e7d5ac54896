package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/testenv"
	"attestbox/internal/wire"
	"attestbox/testdata/banks/fraud"
)

// banks is the example of docs/banks.md, running: the page's commands in one
// shell, which stays until the test is over.
type banks struct {
	dir, ram string
	server   string // host:port of the policy server
	ports    map[string]string
	log      *lockedBuffer
	stdout   string
}

const pageDone = "e2e: the commands of the page are done"

// pageCommands are the commands between two marks of docs/banks.md.
func pageCommands(t *testing.T, section string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "banks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok1 := strings.Cut(string(b), "<!-- "+section+":begin -->\n```\n")
	block, _, ok2 := strings.Cut(rest, "```\n<!-- "+section+":end -->")
	if !ok1 || !ok2 {
		t.Fatalf("the page has no commands for %s", section)
	}
	return block
}

// goBuild builds packages into the folder.
func goBuild(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", dir + "/"}, args...)...)
	cmd.Dir, cmd.Env = testenv.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %v: %v\n%s", args, err, b)
	}
}

// freePorts are n ports that nobody listens on.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// waitFor waits until a log says the words behind what it had said before.
func waitFor(t *testing.T, log *lockedBuffer, before int, words string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(log.String()[before:], words); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nobody said %q:\n%s", words, log.String()[before:])
		}
	}
}

// newBanks is a folder to run the page's commands in. What differs from the page
// is said here: the programs are built already, ports are free ones, and the
// folder for secrets is private.
func newBanks(t *testing.T) (w *banks, replace []string) {
	w = &banks{dir: t.TempDir(), log: &lockedBuffer{}, ports: map[string]string{}}
	ram, err := os.MkdirTemp("/dev/shm", "attestbox-banks-")
	if err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	w.ram = ram
	t.Cleanup(func() { os.RemoveAll(ram) })
	if err := os.Symlink(filepath.Join(testenv.Root(), "testdata"), filepath.Join(w.dir, "testdata")); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 4)
	w.server = "127.0.0.1:" + ports[0]
	replace = []string{"127.0.0.1:8451", w.server, "/dev/shm/banks", ram}
	for i, bank := range fraud.Banks() {
		w.ports[bank] = "127.0.0.1:" + ports[i+1]
		replace = append(replace, "127.0.0.1:"+strconv.Itoa(8461+i), w.ports[bank])
	}
	return w, replace
}

// page runs the page's commands behind the one that builds, all in one shell,
// and returns when the last was started. Until the test is over the shell stays.
func (w *banks) page(t *testing.T, section string, replace []string) {
	t.Helper()
	_, commands, ok := strings.Cut(pageCommands(t, section), "\n")
	if !ok {
		t.Fatal("the page has no commands behind the build")
	}
	script := "set -euo pipefail\n" + strings.NewReplacer(replace...).Replace(commands) + "echo " + pageDone + "\nread -r end\n"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Stderr = w.dir, w.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("%s", w.log)
		}
	})
	for {
		select {
		case line, ok := <-lines:
			if ok && line != pageDone {
				w.stdout += line + "\n"
				continue
			}
			if !ok {
				t.Errorf("the shell ended\n%s", w.stdout)
			}
		case <-time.After(2 * time.Minute):
			t.Errorf("the commands of the page take too long\n%s", w.stdout)
		}
		break
	}
	go func() {
		for range lines { // what comes later is not looked at
		}
		cmd.Wait()
		close(ended)
	}()
	if t.Failed() {
		t.FailNow()
	}
}

// as runs a command of a program with the page's script, and returns its exit
// code and what it said.
func (w *banks) as(t *testing.T, program string, args ...string) (int, string) {
	t.Helper()
	return w.command(t, append([]string{"testdata/banks/as.sh", program}, args...)...)
}

func (w *banks) command(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.prepare(ctx, args...)
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (w *banks) prepare(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "RAM="+w.ram)
	if !filepath.IsAbs(args[0]) {
		cmd.Path = filepath.Join(w.dir, args[0])
	}
	return cmd
}

func (w *banks) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out := w.command(t, args...)
	if code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, code, out)
	}
	return out
}

// start starts a program and waits until it says the words.
func (w *banks) start(t *testing.T, words string, args ...string) *lockedBuffer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	cmd := w.prepare(ctx, args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	said, ended := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			fmt.Fprintln(log, sc.Text())
			if strings.Contains(sc.Text(), words) {
				select {
				case said <- true:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended; cmd.Wait() })
	select {
	case <-said:
	case <-ended:
		t.Fatalf("%v ended:\n%s", args, log)
	case <-ctx.Done():
		t.Fatalf("%v did not say %q:\n%s", args, words, log)
	}
	return log
}

// The page's commands do what the page says, and who is not meant to take part
// does not.
func TestBanks(t *testing.T) {
	w, replace := newBanks(t)
	goBuild(t, filepath.Join(w.dir, "bin"), ".")
	goBuild(t, filepath.Join(w.dir, "bin"), "./testdata/banks/...")
	w.page(t, "processes", replace)
	t.Run("trend", w.trend)
	t.Run("secrecy", w.secrecy)
	t.Run("unadmitted", w.unadmitted)
	t.Run("posing", w.posing)
	t.Run("outsider", w.outsider)
	t.Run("revoked", w.revoked) // last: bank C is out from then on
}

// What is printed is what the page shows, and all banks got the same.
func (w *banks) trend(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "banks.md"))
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(w.stdout, "month,category,")
	if i < 0 {
		t.Fatalf("no trend was printed:\n%s", w.stdout)
	}
	got := w.stdout[i:]
	if !strings.Contains(string(page), "```\n"+got+"```\n") {
		t.Errorf("the page shows another trend than\n%s", got)
	}
	for _, name := range []string{"trend-a.csv", "trend-b.csv"} {
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if st, err := os.Stat(filepath.Join(w.dir, name)); err == nil && st.Size() > 0 {
				break
			}
		}
		if b, err := os.ReadFile(filepath.Join(w.dir, name)); err != nil || string(b) != got {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
	}
}

// No account, and no row that was not agreed upon, is in anything that the
// server keeps, that anybody said or that a bank got.
func (w *banks) secrecy(t *testing.T) {
	w.noAccounts(t, []string{w.dir, w.ram}, map[string][]byte{"what was said": []byte(w.log.String() + w.stdout)})
}

func (w *banks) noAccounts(t *testing.T, dirs []string, more map[string][]byte) {
	t.Helper()
	needles := map[string]bool{}
	for _, bank := range fraud.Banks() {
		cases, err := fraud.ParseCases(bankData(t, bank))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			needles[c.Account] = true
		}
	}
	look := func(what string, b []byte) {
		for n := range needles {
			if bytes.Contains(b, []byte(n)) {
				t.Errorf("%s holds the account %s", what, n)
			}
		}
	}
	for what, b := range more {
		look(what, b)
	}
	files := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			look(path, b)
			files++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 || len(needles) < 60 {
		t.Errorf("only %d files and %d accounts were looked at", files, len(needles))
	}
}

// A program that differs by a byte at its end is not admitted.
func (w *banks) unadmitted(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(w.dir, "bin", "analysis"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "bin", "changed"), append(b, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	w.copyKey(t, "analysis", "changed")
	for _, role := range []string{"client", "analysis"} {
		w.refused(t, "changed", "-role", role)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "changed.store")); err == nil {
		t.Error("it has a store")
	}
}

func (w *banks) copyKey(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.ram, from+".key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.ram, to+".key"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *banks) refused(t *testing.T, program string, args ...string) {
	t.Helper()
	code, out := w.as(t, program, append([]string{"certify", "-force", "-server", "tcp://" + w.server}, args...)...)
	if code != 3 || !strings.Contains(out, "[certify-refused]") {
		t.Errorf("%s certify %v: exit %d\n%s", program, args, code, out)
	}
}

// Bank B does not get to be bank A: not by asking, not on bank A's socket, and
// not with bank A's program on bank B's machine.
func (w *banks) posing(t *testing.T) {
	w.refused(t, "bank-b", "-role", "bank-a")
	w.refused(t, "bank-b", "-role", "analysis")
	if err := os.Link(filepath.Join(w.dir, "bin", "bank-a"), filepath.Join(w.dir, "bin", "bank-a-at-b")); err != nil {
		t.Fatal(err)
	}
	w.copyKey(t, "bank-b", "bank-a-at-b")
	w.refused(t, "bank-a-at-b", "-role", "bank-a")

	analyse := w.start(t, "waiting for 3 banks", "bin/analysis", "analyse", "-dir", w.ram+"/analysis")
	socket := w.ram + "/bank-b/posing.sock"
	w.start(t, "listening on", "testdata/banks/as.sh", "bank-b", "tunnel", "-mode", "client", "-listen", "unix:"+socket, "-connect", w.ports["bank-a"], "-peer", "role:analysis")
	if answer := w.send(t, socket, bankData(t, "bank-b")); answer != "" {
		t.Errorf("bank A's socket answered bank B: %q", answer)
	}
	waitFor(t, w.log, 0, "-peer allows: banks.example")
	// And an analysis that is none does not get a bank's cases.
	w.start(t, "listening on", "testdata/banks/as.sh", "bank-c", "tunnel", "-mode", "server", "-listen", "tcp:"+w.spare(t), "-connect", "unix:"+w.ram+"/bank-c/none.sock", "-peer", "any-of-domain")
	socket = w.ram + "/bank-a/posing.sock"
	log := w.start(t, "listening on", "testdata/banks/as.sh", "bank-a", "tunnel", "-mode", "client", "-listen", "unix:"+socket, "-connect", w.ports["spare"], "-peer", "role:analysis")
	if answer := w.send(t, socket, bankData(t, "bank-a")); answer != "" {
		t.Errorf("bank C in the place of the analysis answered bank A: %q", answer)
	}
	waitFor(t, log, 0, "-peer allows: banks.example")
	if strings.Contains(analyse.String(), "has sent") {
		t.Errorf("%s", analyse)
	}
}

func (w *banks) spare(t *testing.T) string {
	w.ports["spare"] = "127.0.0.1:" + freePorts(t, 1)[0]
	return w.ports["spare"]
}

// send sends to a tunnel's socket what a bank would, and returns the answer.
func (w *banks) send(t *testing.T, socket string, data []byte) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	c.Write(data)
	c.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the stream was not ended")
	}
	return string(b)
}

// A member of another domain of the same name of program, and a client without
// any certificate, are refused by the analysis' tunnel itself.
func (w *banks) outsider(t *testing.T) {
	o := &banks{dir: w.dir, ram: w.ram, server: w.spare(t), log: &lockedBuffer{}}
	o.must(t, "bin/attestbox", "policy", "init", "banks.example", "-dir", "other", "-plain")
	o.must(t, "bin/attestbox", "server", "init", "-state", "other-server", "-seal-key", w.ram+"/other-seal.key", "-new-keys", "-out", "other-keys")
	o.must(t, "bin/attestbox", "policy", "trust-root", "-dir", "other", "keys/bank-a.pub", "-enclave", o.sum(t, "bank-a"))
	o.must(t, "bin/attestbox", "policy", "allow", "-dir", "other", "measurement", o.sum(t, "bank-a"), "-name", "bank-a")
	o.must(t, "bin/attestbox", "policy", "grant", "-dir", "other", "bank-a", "serve", "bank-a")
	o.must(t, "bin/attestbox", "policy", "grant", "-dir", "other", "other-keys/server.pub", "serve", "policy-server")
	o.must(t, "bin/attestbox", "policy", "delegate", "-dir", "other", "other-keys/issuer.pub", "-issuer", "-out", "other/issuer.crt")
	o.must(t, "bin/attestbox", "policy", "sign", "-dir", "other")
	o.start(t, "listening on", "bin/attestbox", "policy-server", "-state", "other-server", "-seal-key", w.ram+"/other-seal.key", "-domain", "other",
		"-listen", "tcp://"+o.server, "-admin", "")
	o.must(t, "bin/bank-a", "certify", "-role", "bank-a", "-server", "tcp://"+o.server, "-policy-cert", "other/policy.crt", "-store", "other.store", "-run-dir", w.ram+"/other",
		"-floor", w.ram+"/other/floor", "-platform", "enclave", "-enclave-key", w.ram+"/bank-a.key")
	o.must(t, "bin/bank-a", "certify", "-second-key", "attack", "-out", w.ram+"/attack.key", "-chain", "attack.pem", "-server", "tcp://"+o.server, "-policy-cert", "other/policy.crt",
		"-store", "other.store", "-run-dir", w.ram+"/other", "-floor", w.ram+"/other/floor", "-platform", "enclave", "-enclave-key", w.ram+"/bank-a.key")
	outside, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "attack.pem"), w.ram+"/attack.key")
	if err != nil {
		t.Fatal(err)
	}
	// The same way in with bank A's own second key is let through to the role's
	// check: it is the other domain's certificate that is refused.
	w.must(t, "testdata/banks/as.sh", "bank-a", "certify", "-second-key", "inside", "-out", w.ram+"/inside.key", "-chain", "inside.pem", "-server", "tcp://"+w.server)
	inside, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "inside.pem"), w.ram+"/inside.key")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		log  string
	}{
		{"another domain", &outside, "not an admission certificate of this domain"},
		{"a member without the role", &inside, "-peer allows"},
		{"nobody", nil, "didn't provide a certificate"},
	} {
		cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{wire.ALPNTunnel}}
		if c.cert != nil {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
		}
		before := len(w.log.String())
		if err := w.tlsRefused(cfg); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		waitFor(t, w.log, before, c.log)
	}
}

// tlsRefused connects to bank A's tunnel and says what is wrong with its refusal.
func (w *banks) tlsRefused(cfg *tls.Config) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", w.ports["bank-a"], cfg)
	if err != nil {
		return err // the server's certificate is not checked, so it must come
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte("month,"))
	_, err = c.Read(make([]byte, 1))
	var alert tls.AlertError
	if !errors.As(err, &alert) {
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "remote error" {
			return fmt.Errorf("want an alert, got %v", err)
		}
	}
	return nil
}

func (w *banks) sum(t *testing.T, program string) string {
	t.Helper()
	out := w.must(t, "/usr/bin/sha256sum", "bin/"+program)
	return out[:64]
}

// Bank C is thrown out. Its certificate, which is good for most of an hour, ends
// to count when the analysis has heard of it, and it gets no other.
func (w *banks) revoked(t *testing.T) {
	block := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := pem.Decode(b)
		return p.Bytes
	}
	w.must(t, "testdata/banks/as.sh", "bank-c", "certify", "-role", "bank-c", "-server", "tcp://"+w.server, "-chain", "bank-c.pem")
	cert, err := x509.ParseCertificate(block("bank-c.pem"))
	if err != nil || time.Until(cert.NotAfter) < 30*time.Minute {
		t.Fatalf("bank C's certificate has ended by itself: %v", err)
	}
	w.must(t, "bin/attestbox", "policy", "revoke", "-dir", "banks", "measurement", "bank-c")
	w.must(t, "bin/attestbox", "policy", "sign", "-dir", "banks")
	// The server takes the new policy by itself.
	for deadline := time.Now().Add(time.Minute); ; {
		code, out := w.as(t, "bank-c", "certify", "-force", "-role", "bank-c", "-server", "tcp://"+w.server)
		if code == 3 && strings.Contains(out, "[certify-refused]") {
			break
		}
		time.Sleep(500 * time.Millisecond) // the server bounds connections per second
		if time.Now().After(deadline) {
			t.Fatalf("bank C is certified still: exit %d\n%s", code, out)
		}
	}
	for _, p := range []string{"analysis", "bank-a", "bank-b"} {
		w.must(t, "testdata/banks/as.sh", p, "certify", "-force", "-role", p, "-server", "tcp://"+w.server)
	}
	analyse := w.start(t, "waiting for 3 banks", "bin/analysis", "analyse", "-dir", w.ram+"/analysis")
	before := len(w.log.String())
	code, out := w.command(t, "bin/bank-c", "submit", "-to", w.ram+"/bank-c/analysis.sock", "-data", "testdata/banks/data/bank-c.csv", "-timeout", "3s")
	if code != 1 || !strings.Contains(out, "no answer in time") {
		t.Errorf("bank C: exit %d\n%s", code, out)
	}
	waitFor(t, w.log, before, "[admission-policy-version]")
	go w.prepare(t.Context(), "bin/bank-a", "submit", "-to", w.ram+"/bank-a/analysis.sock", "-data", "testdata/banks/data/bank-a.csv").Run()
	waitFor(t, analyse, 0, "bank-a has sent its cases")
	if strings.Contains(analyse.String(), "bank-c") {
		t.Errorf("%s", analyse)
	}
}
