package vhostvsock_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/snpsim/qemu/guesttest"
	"attestbox/internal/snpsim/vhostvsock"
)

// A real Linux guest: 4 MiB each way, byte for byte, both ways of connecting,
// through half closed connections, and a refused port.
func TestGuest(t *testing.T) {
	kernel := guesttest.Kernel(t)
	files := guesttest.Modules(t, append(append([]string{}, guesttest.Virtio...), "net/vmw_vsock/vsock",
		"net/vmw_vsock/vmw_vsock_virtio_transport_common", "net/vmw_vsock/vmw_vsock_virtio_transport")...)
	files = append(files, guesttest.File{Name: "init", Mode: 0o755, Data: guesttest.Build(t, "testdata/guest")})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	var echoed atomic.Int64
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				n, _ := io.Copy(c, c)
				echoed.Add(n)
				c.Close()
			}()
		}
	}()
	srv, err := vhostvsock.New(vhostvsock.Options{GuestCID: 42, Logf: t.Logf,
		Dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			if port != 7000 {
				return nil, errors.New("nobody there")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", echo.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.DialGuest(ctx, 8000); !errors.Is(err, vhostvsock.ErrNotReady) {
		t.Errorf("connecting to a guest that is not there: %v", err)
	}
	vm, err := (&qemu.Machine{Kernel: kernel, Initrd: guesttest.Initramfs(files...), Append: guesttest.CommandLine,
		MemoryMiB: 256, VhostVsock: srv.ServeConn}).Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		vm.Stop()
		t.Logf("console:\n%s", vm.Console)
	}()
	if _, err := vm.Console.WaitFor(ctx, "listening"); err != nil {
		t.Fatal(err)
	}
	if _, err := srv.DialGuest(ctx, 8001); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting to a port where nobody listens: %v", err)
	}
	c, err := srv.DialGuest(ctx, 8000)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	go func() {
		c.Write(data)
		c.(*net.UnixConn).CloseWrite()
	}()
	back, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d of %d bytes came back: %v", len(back), len(data), err)
	}
	c.Close()
	if err := vm.Wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"cid 42", "to the host: same bytes", "round trip", "refused port: refused",
		fmt.Sprintf("from the host: %d bytes, %x, <nil>", len(data), sha256.Sum256(data))} {
		if !strings.Contains(vm.Console.String(), want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if n := echoed.Load(); n < int64(len(data)) {
		t.Errorf("the echo server saw %d bytes", n)
	}
}
