package attestd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/testenv"
)

func unmarshal(b []byte, v any) error { return strictjson.Unmarshal(b, v) }

func wantRefused(t *testing.T, what, got string, want code.Code) {
	t.Helper()
	if !strings.HasPrefix(got, "error "+string(want)+":") {
		t.Errorf("%s: %q, want error %s", what, got, want)
	}
}

// A program connects and takes part up to the challenge, then becomes a
// program with a better name.
func TestExecAfterConnect(t *testing.T) {
	w := newWorld(t, false, nil)
	wantRefused(t, "unmeasured becomes measured", w.run(nil, w.unmeasured(), "exec", w.socket, w.measured("good")), code.AttestdCaller)
	wantRefused(t, "measured becomes unmeasured", w.run(nil, w.measured("good"), "exec", w.socket, w.unmeasured()), code.AttestdCaller)
	// The same file, so only the memory of the execution tells.
	wantRefused(t, "measured becomes itself", w.run(nil, w.measured("good"), "exec", w.socket, w.measured("good")), code.AttestdCaller)
}

// A program connects, leaves the socket with a child and becomes a good one,
// all before attestd looks: the child writes with the good program's process
// number as the socket's owner.
func TestSocketLeftWithChild(t *testing.T) {
	w := newWorld(t, true, nil)
	c := w.spawn(w.unmeasured(), "leave", w.socket, w.measured("good"))
	if got := c.line(t); got != "idle" {
		t.Fatal(got)
	}
	w.start()
	if got := c.line(t); got != "child" {
		t.Fatal(got)
	}
	wantRefused(t, "the child", c.line(t), code.AttestdCaller)
	if !strings.Contains(w.log.String(), "image:sha256:") {
		t.Error("the attack was not mounted: attestd never saw the good program")
	}
}

// A request that was written before attestd looked is nobody's.
func TestRequestBeforeChallenge(t *testing.T) {
	w := newWorld(t, true, nil)
	c := w.spawn(w.unmeasured(), "early", w.socket, w.measured("good"))
	if got := c.line(t); got != "idle" {
		t.Fatal(got)
	}
	w.start()
	// The request comes with the good program's process number, and attestd
	// looks when the good program runs: the nonce alone tells.
	w.log.waitFor(t, "refused", "code=attestd-malformed", "program=image:", "nonce")
	if strings.Contains(w.log.String(), "op=whoami") {
		t.Error("the request was answered")
	}
}

// Code that is not a measured file's makes a program unmeasured.
func TestOtherCode(t *testing.T) {
	w := newWorld(t, false, nil)
	good := w.measured("good")
	for mode, file := range map[string]string{"library": w.unmeasured(), "anonymous": "", "rewritten": ""} {
		c := w.spawn(good, mode, w.socket, file)
		if got := c.line(t); !strings.HasPrefix(got, "image:sha256:") {
			t.Errorf("%s: before: %q", mode, got)
		}
		wantRefused(t, mode, c.line(t), code.AttestdCaller)
	}
}

// A process that was root when it connected is not root's program any more.
func TestUserChanged(t *testing.T) {
	if os.Getuid() != 0 {
		testenv.Skip(t, "root, to become somebody else")
	}
	w := newWorld(t, false, nil)
	c := w.spawn(w.measured("good"), "setuid", w.socket)
	if got := c.line(t); !strings.HasPrefix(got, "image:sha256:") {
		t.Errorf("before: %q", got)
	}
	wantRefused(t, "after", c.line(t), code.AttestdCaller)
}

func TestOtherNamespace(t *testing.T) {
	w := newWorld(t, false, nil)
	cmd := w.command(w.measured("good"), "ask", w.socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("this kernel makes no user namespace: %v", err)
	}
	if got := string(out); !strings.HasPrefix(got, Unmeasured+" ") || !strings.Contains(got, "ns/user") {
		t.Errorf("in another user namespace: %q", got)
	}
}

func TestTraced(t *testing.T) {
	w := newWorld(t, false, nil)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := w.command(w.measured("good"), "ask", w.socket)
	out := new(strings.Builder)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = pw
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	done := make(chan struct{})
	go func() { io.Copy(out, pr); close(done) }()
	for {
		var st syscall.WaitStatus
		if _, err := syscall.Wait4(cmd.Process.Pid, &st, 0, nil); err != nil {
			t.Fatal(err)
		}
		if st.Exited() || st.Signaled() {
			break
		}
		sig := 0
		if s := st.StopSignal(); s != syscall.SIGTRAP && s != syscall.SIGSTOP {
			sig = int(s)
		}
		if err := syscall.PtraceCont(cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if got := out.String(); !strings.HasPrefix(got, Unmeasured+" it is traced") {
		t.Errorf("traced: %q", got)
	}
}

func TestUnmeasuredMayOnlyAttest(t *testing.T) {
	w := newWorld(t, false, nil)
	c, ctx := w.dial(), testContext(t)
	data := secret.Copy([]byte("x"))
	_, err := c.Seal(ctx, data, "", "")
	wantCode(t, "seal", err, code.AttestdUnmeasured)
	_, err = c.Unseal(ctx, make([]byte, 100), "")
	wantCode(t, "unseal", err, code.AttestdUnmeasured)
	_, err = c.Sign(ctx, []byte("x"), "test", "")
	wantCode(t, "sign", err, code.AttestdUnmeasured)
	_, err = c.Sign(ctx, []byte("x"), "test", KeyProgram)
	wantCode(t, "sign", err, code.AttestdUnmeasured)
	_, err = c.Ask(ctx, OpKey)
	wantCode(t, "key", err, code.AttestdUnmeasured)
	if r, err := c.Ask(ctx, OpCertificate); err != nil || len(r.Chain) != 1 {
		t.Errorf("certificate: %v, %v", r, err)
	}
	if r, err := c.Ask(ctx, OpWhoami); err != nil || r.Program != Unmeasured || r.PID != os.Getpid() || *r.UID != os.Getuid() || r.Why == "" {
		t.Errorf("whoami: %+v, %v", r, err)
	}
}

// raw is a connection by hand, after the challenge.
func (w *world) raw() (*net.UnixConn, Challenge) {
	w.t.Helper()
	raw, err := net.Dial("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	js, err := readFrame(raw, MaxResponse)
	if err != nil {
		w.t.Fatal(err)
	}
	var ch Challenge
	if err := unmarshal(js, &ch); err != nil {
		w.t.Fatal(err)
	}
	return raw.(*net.UnixConn), ch
}

// outcome reads answers until the connection ends: the last code.
func outcome(t *testing.T, c net.Conn) (last string) {
	t.Helper()
	for {
		js, err := readFrame(c, MaxResponse)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return last
		}
		if err != nil {
			t.Fatalf("after %q: %v", last, err)
		}
		var r Response
		if err := unmarshal(js, &r); err != nil {
			t.Fatal(err)
		}
		if last = r.Code; r.Type != "error" {
			last = "answer to " + r.Type
		}
	}
}

func TestMalformed(t *testing.T) {
	w := newWorld(t, false, nil)
	length := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	for name, make := range map[string]func(nonce string) string{
		"empty frame":   func(string) string { return length(0) },
		"large frame":   func(string) string { return length(MaxRequest + 1) },
		"huge frame":    func(string) string { return length(0xffffffff) + strings.Repeat("x", 1000) },
		"9 MB":          func(string) string { return length(9<<20) + strings.Repeat("x", 9<<20) },
		"no JSON":       func(string) string { return length(3) + "abc" },
		"wrong nonce":   func(string) string { return text(`{"op":"whoami","nonce":"` + strings.Repeat("00", 32) + `"}`) },
		"no nonce":      func(string) string { return text(`{"op":"whoami"}`) },
		"unknown op":    func(n string) string { return text(`{"op":"reboot","nonce":"` + n + `"}`) },
		"unknown field": func(n string) string { return text(`{"op":"whoami","nonce":"` + n + `","report_data":"00"}`) },
		"other case":    func(n string) string { return text(`{"Op":"whoami","nonce":"` + n + `"}`) },
		"twice":         func(n string) string { return text(`{"op":"whoami","op":"sign","nonce":"` + n + `"}`) },
		"too much data": func(n string) string { return text(`{"op":"attest","size":40000,"nonce":"` + n + `"}`) },
		"negative data": func(n string) string { return text(`{"op":"attest","size":-1,"nonce":"` + n + `"}`) },
		"data for none": func(n string) string { return text(`{"op":"whoami","size":1,"nonce":"`+n+`"}`) + "x" },
		"no context":    func(n string) string { return text(`{"op":"sign","nonce":"` + n + `"}`) },
		"bad context":   func(n string) string { return text(`{"op":"seal","context":"a b","nonce":"` + n + `"}`) },
		"bad scope":     func(n string) string { return text(`{"op":"seal","scope":"all","nonce":"` + n + `"}`) },
		"bad key":       func(n string) string { return text(`{"op":"sign","context":"a","key":"x","nonce":"` + n + `"}`) },
		"scope of VM":   func(n string) string { return text(`{"op":"sign","context":"a","scope":"user","nonce":"` + n + `"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			c, ch := w.raw()
			// attestd may close while it is still being written to.
			if _, err := io.WriteString(c, make(ch.Nonce.String())); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			if got := outcome(t, c); got != string(code.AttestdMalformed) {
				t.Errorf("answered %q", got)
			}
		})
	}
	t.Run("cut", func(t *testing.T) {
		c, ch := w.raw()
		b := text(`{"op":"attest","size":10,"nonce":"` + ch.Nonce.String() + `"}`)
		io.WriteString(c, b+"12345")
		c.CloseWrite()
		if got := outcome(t, c); got != string(code.AttestdMalformed) {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		c, ch := w.raw()
		b := text(`{"op":"whoami","nonce":"` + ch.Nonce.String() + `"}`)
		if _, _, err := c.WriteMsgUnix([]byte(b), unix.UnixRights(0, 1), nil); err != nil {
			t.Fatal(err)
		}
		if got := outcome(t, c); got != string(code.AttestdMalformed) {
			t.Errorf("answered %q", got)
		}
	})
}

func text(js string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(js)))) + js }

// Callers that are silent, stop in the middle or do not read are cut off; until
// then they disturb nobody.
func TestSlowCallers(t *testing.T) {
	w := newWorld(t, false, func(o *Options) {
		o.Limits = Limits{Idle: 300 * time.Millisecond, Transfer: 300 * time.Millisecond, RequestRate: 1e6, RequestBurst: 1e6}
	})
	silent, _ := w.raw()
	half, ch := w.raw()
	io.WriteString(half, text(`{"op":"attest","size":10,"nonce":"`+ch.Nonce.String()+`"}`)+"12345")
	deaf, ch := w.raw()
	go func() { // fills the socket's buffers with answers that nobody reads
		b := []byte(text(`{"op":"certificate","nonce":"` + ch.Nonce.String() + `"}`))
		for {
			if _, err := deaf.Write(b); err != nil {
				return
			}
		}
	}()
	if got := w.run(nil, w.measured("good"), "ask", w.socket); !strings.HasPrefix(got, "image:") {
		t.Errorf("beside slow callers: %q", got)
	}
	if got := outcome(t, silent); got != "" {
		t.Errorf("silent: %q", got)
	}
	if got := outcome(t, half); got != "" {
		t.Errorf("half a request: %q", got)
	}
	if err := w.stop(); err != nil {
		t.Errorf("a deaf caller holds up the end: %v", err)
	}
}

func TestTooManyConnections(t *testing.T) {
	w := newWorld(t, false, func(o *Options) { o.Limits = Limits{PerUser: 3} })
	for range 3 {
		w.dial()
	}
	_, err := Dial(testContext(t), w.socket)
	wantCode(t, "the fourth", err, code.AttestdBusy)
}
