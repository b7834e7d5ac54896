// The init of TestKernelMeasures: it runs attestd on a real kernel and asks it
// from the same program on different file systems.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"attestbox/internal/attestd"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
)

const socket = "/tmp/attestd.sock"

func main() {
	if len(os.Args) > 1 && os.Args[1] != "" && os.Getpid() != 1 {
		caller(os.Args[1:])
		return
	}
	guestinit.Prepare()
	if err := run(); err != nil {
		fmt.Println("failed:", err)
	}
	fmt.Println("guest done")
	guestinit.PowerOff()
}

func caller(args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch args[0] {
	case "reexec":
		fmt.Println("one")
		io.ReadFull(os.Stdin, make([]byte, 1))
		unix.Exec("/proc/self/exe", []string{"x", "reexeced"}, nil)
		return
	case "reexeced":
		fmt.Println("two")
		io.ReadFull(os.Stdin, make([]byte, 1))
		return
	}
	c, err := attestd.Dial(ctx, socket)
	if err == nil {
		switch args[0] {
		case "whoami":
			var r *attestd.Response
			if r, err = c.Ask(ctx, attestd.OpWhoami); err == nil {
				fmt.Println(r.Program, r.Why)
			}
		case "seal":
			var blob []byte
			if blob, err = c.Seal(ctx, secret.Copy([]byte("hidden")), "", args[1]); err == nil {
				fmt.Printf("%x\n", blob)
			}
		case "unseal":
			blob, _ := hex.DecodeString(args[1])
			var out *secret.Bytes
			if out, err = c.Unseal(ctx, blob, ""); err == nil {
				fmt.Printf("%s\n", out.Bytes())
			}
		}
	}
	if err != nil {
		fmt.Println("error:", err)
	}
}

// as runs a program as a user and returns what it says.
func as(uid uint32, path string, args ...string) string {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v", out, err)
	}
	return strings.TrimSpace(string(out))
}

func say(what string, path string) { fmt.Printf("%s: %s\n", what, as(0, path, "whoami")) }

func run() error {
	step := 0
	must := func(errs ...error) {
		step++
		if err := errors.Join(errs...); err != nil {
			panic(fmt.Sprintf("step %d: %v", step, err))
		}
	}
	defer func() {
		if p := recover(); p != nil {
			fmt.Println("failed:", p)
		}
	}()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	param := func(name string) string {
		_, rest, _ := strings.Cut(string(cmdline), name+"=")
		v, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		return v
	}
	must(os.MkdirAll("/verity", 0o755), os.MkdirAll("/device", 0o755), os.MkdirAll("/over", 0o755))
	must(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	// The disk with fs-verity: this program, once with and once without.
	must(unix.Mount("/dev/vda", "/verity", "ext4", 0, ""))
	self, err := os.ReadFile("/init")
	must(err, os.WriteFile("/verity/with", self, 0o755), os.WriteFile("/verity/without", self, 0o755), os.WriteFile("/tmp/copy", self, 0o755))
	must(enableVerity("/verity/with"))
	// The disk with dm-verity.
	blocks, err := strconv.ParseUint(param("test.blocks"), 10, 64)
	must(err)
	hash, err := strconv.ParseUint(param("test.hash"), 10, 64)
	must(err)
	must(devmapper.CreateAndLoad("v", "CRYPT-VERITY-0b0e1a6c6a334f3c9f533e2f3b1f2a10-v", devmapper.ReadOnlyFlag, devmapper.VerityTable{
		Length: blocks * 4096, HashType: 1, DataDevice: "/dev/vdb", HashDevice: "/dev/vdb", DataBlockSize: 4096, HashBlockSize: 4096,
		NumDataBlocks: blocks, HashStartBlock: hash, Algorithm: "sha256", Digest: param("test.root"), Salt: param("test.salt"),
	}))
	must(unix.Mount("/dev/dm-0", "/device", "ext4", unix.MS_RDONLY, ""))
	must(os.MkdirAll("/tmp/u", 0o755), os.MkdirAll("/tmp/w", 0o755))
	must(unix.Mount("overlay", "/over", "overlay", 0, "lowerdir=/device,upperdir=/tmp/u,workdir=/tmp/w"))

	l, err := attestd.Listen(socket, 1000)
	must(err)
	root := secret.Random(attestd.RootSize)
	s := attestd.New(attestd.Options{Root: func(context.Context) (*secret.Bytes, error) { return secret.Copy(root.Bytes()), nil }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()

	say("writable initramfs", "/init")
	must(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	say("initramfs", "/init")
	say("tmpfs", "/tmp/copy")
	say("ext4", "/verity/without")
	say("fs-verity", "/verity/with")
	say("dm-verity", "/device/program")
	say("overlay", "/over/program")

	for _, scope := range []string{attestd.ScopeUser, attestd.ScopeProgram} {
		blob := as(1000, "/init", "seal", scope)
		fmt.Printf("%s, same: %s\n", scope, as(1000, "/init", "unseal", blob))
		fmt.Printf("%s, other user: %s\n", scope, as(1001, "/init", "unseal", blob))
		fmt.Printf("%s, other program: %s\n", scope, as(1000, "/verity/with", "unseal", blob))
		fmt.Printf("%s, unmeasured: %s\n", scope, as(1000, "/tmp/copy", "unseal", blob))
	}
	cancel()
	fmt.Println("served:", <-done)
	return reexec()
}

// reexec shows that an open maps file ends with the execution, also when the
// same file is executed again: what attestd builds on.
func reexec() error {
	cmd := exec.Command("/init", "reexec")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		return err
	}
	line := make([]byte, 4)
	if _, err := io.ReadFull(out, line); err != nil {
		return err
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", cmd.Process.Pid))
	if err != nil {
		return err
	}
	b := make([]byte, 100)
	before, err := maps.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	in.Write([]byte("x"))
	if _, err := io.ReadFull(out, line); err != nil {
		return err
	}
	after, _ := maps.ReadAt(b, 0)
	fmt.Printf("maps: %t before, %t after %q\n", before > 0, after > 0, bytes.TrimSpace(line))
	in.Write([]byte("x"))
	return cmd.Wait()
}

// enableVerity is FS_IOC_ENABLE_VERITY with SHA-256, blocks of 4096 bytes and
// no salt.
func enableVerity(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	arg := struct {
		version, alg, block, saltSize uint32
		salt                          uint64
		sigSize, reserved             uint32
		sig                           uint64
		more                          [11]uint64
	}{version: 1, alg: 1, block: 4096}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("FS_IOC_ENABLE_VERITY: %w", errno)
	}
	return nil
}
