package attestd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/secret"
)

// childMain is what programs under test do: args are mode, socket, and more.
// They talk to the test on stdin and stdout.
func childMain(mode string, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	say := func(format string, a ...any) { fmt.Printf(format+"\n", a...) }
	wait := func() { bufio.NewReader(os.Stdin).ReadString('\n') }
	switch mode {
	case "idle": // a program that does nothing with the descriptors it has
		say("idle")
		io.Copy(io.Discard, os.Stdin)
		return nil
	case "use": // a socket that is already connected, and its challenge
		return use(args[0], args[1])
	case "child": // a socket that somebody else connected
		c, err := inherited(args[0])
		if err != nil {
			return err
		}
		say("child")
		return ask(ctx, c)
	}

	if mode == "early" { // write a request before there is a challenge, then run the good program
		return connectAndExec(args[0], args[1], nil)
	}
	if mode == "leave" { // leave the socket with a child, then run the good program
		self := func(fd *os.File) error {
			cmd := exec.Command("/proc/self/exe", "child", "3")
			cmd.Env = append(os.Environ(), "ATTESTD_TEST_CHILD=1")
			cmd.ExtraFiles = []*os.File{fd}
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			return cmd.Start()
		}
		return connectAndExec(args[0], args[1], self)
	}

	c, err := Dial(ctx, args[0])
	if err != nil {
		return err
	}
	switch mode {
	case "ask":
		return ask(ctx, c)
	case "twice": // whoami, something that the test does, whoami
		if err := ask(ctx, c); err != nil {
			return err
		}
		wait()
		return ask(ctx, c)
	case "library": // map executable pages of a file that can change
		if err := ask(ctx, c); err != nil {
			return err
		}
		f, err := os.Open(args[1])
		if err != nil {
			return err
		}
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE); err != nil {
			return err
		}
		return ask(ctx, c)
	case "anonymous": // make code in memory
		if err := ask(ctx, c); err != nil {
			return err
		}
		if _, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return err
		}
		return ask(ctx, c)
	case "bench": // an operation, so many times
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		r, data := Request{Op: args[1]}, []byte(nil)
		if args[1] != OpWhoami {
			r.Context, data = "bench", make([]byte, 64)
		}
		start := time.Now()
		for range n {
			_, body, err := c.Do(ctx, r, data)
			if err != nil {
				return err
			}
			body.Zero()
		}
		say("%d", time.Since(start).Nanoseconds()/int64(n))
		return nil
	case "setuid":
		if err := ask(ctx, c); err != nil {
			return err
		}
		if err := syscall.Setresuid(12345, 12345, 12345); err != nil {
			return err
		}
		return ask(ctx, c)
	case "rewritten": // change a copy of its own code, then make it executable
		if err := ask(ctx, c); err != nil {
			return err
		}
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		b[100]++
		if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC); err != nil {
			return err
		}
		return ask(ctx, c)
	case "exec": // run another program that goes on with this connection
		return c.exec(args[1])
	case "seal":
		in, err := secret.ReadAll(os.Stdin, MaxData)
		if err != nil {
			return err
		}
		blob, err := c.Seal(ctx, in, "test", args[1])
		if err == nil {
			fmt.Print(hex.EncodeToString(blob))
		}
		return err
	case "unseal":
		in, _ := io.ReadAll(os.Stdin)
		blob, err := hex.DecodeString(string(in))
		if err != nil {
			return err
		}
		out, err := c.Unseal(ctx, blob, args[1])
		if err == nil {
			os.Stdout.Write(out.Bytes())
		}
		return err
	case "sign":
		in, _ := io.ReadAll(os.Stdin)
		r, err := c.Sign(ctx, in, "test", args[1])
		if err == nil {
			say("%s %x %x", r.Program, r.Signature, r.SPKI)
		}
		return err
	case "certify": // the certification request, then the evidence for a transcript of ones
		r, body, err := c.Do(ctx, Request{Op: OpCertify, Scope: ScopeProgram}, nil)
		if err != nil {
			return err
		}
		body.Zero()
		ev, body, err := c.Do(ctx, Request{Op: OpCertify, Scope: ScopeProgram}, bytes.Repeat([]byte{1}, 64))
		if err != nil {
			return err
		}
		body.Zero()
		say("%s %x %x", ev.Platform, r.CSR, ev.Report)
		return nil
	case "key":
		r, err := c.Ask(ctx, OpKey)
		if err == nil {
			say("%s %x %x %d %d", r.Program, r.Signature, r.SPKI, r.NotBefore, r.NotAfter)
		}
		return err
	}
	return fmt.Errorf("mode %q", mode)
}

func ask(ctx context.Context, c *Client) error {
	r, err := c.Ask(ctx, OpWhoami)
	if err == nil {
		fmt.Println(r.Program, r.Why)
	}
	return err
}

// exec replaces this program, keeping the connection and the nonce.
func (c *Client) exec(path string) error {
	f, err := c.c.File()
	if err != nil {
		return err
	}
	unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
	return unix.Exec(path, []string{path, "use", strconv.Itoa(int(f.Fd())), c.challenge.Nonce.String()}, os.Environ())
}

// inherited is a client on a descriptor; it reads the challenge.
func inherited(fd string) (*Client, error) {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return nil, err
	}
	fc, err := net.FileConn(os.NewFile(uintptr(n), "socket"))
	if err != nil {
		return nil, err
	}
	c := &Client{c: fc.(*net.UnixConn)}
	js, err := readFrame(c.c, MaxResponse)
	if err != nil {
		return nil, err
	}
	return c, unmarshal(js, &c.challenge)
}

func use(fd, nonce string) error {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return err
	}
	fc, err := net.FileConn(os.NewFile(uintptr(n), "socket"))
	if err != nil {
		return err
	}
	c := &Client{c: fc.(*net.UnixConn)}
	b, err := hex.DecodeString(nonce)
	if err != nil {
		return err
	}
	copy(c.challenge.Nonce[:], b)
	return ask(context.Background(), c)
}

// connectAndExec connects, leaves the socket to somebody or writes a request
// into it unasked, and becomes another program.
func connectAndExec(socket, path string, leave func(*os.File) error) error {
	raw, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	if leave == nil {
		b, err := frame(Request{Op: OpWhoami}, MaxRequest)
		if err != nil {
			return err
		}
		if _, err := raw.Write(b); err != nil {
			return err
		}
	}
	f, err := raw.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	if leave != nil {
		if err := leave(f); err != nil {
			return err
		}
	}
	unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
	return unix.Exec(path, []string{path, "idle"}, os.Environ())
}
