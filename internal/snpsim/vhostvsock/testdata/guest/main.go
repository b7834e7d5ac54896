// The init of the test of package vhostvsock: it sends 4 MiB to the host and
// wants the same bytes back, then does the same for who connects to it.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/mdlayher/vsock"

	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
)

const size = 4 << 20

func main() {
	guestinit.Prepare()
	if err := run(); err != nil {
		fmt.Println("failed:", err)
	}
	guestinit.PowerOff()
}

func run() error {
	cid, err := vsock.ContextID()
	if err != nil {
		return err
	}
	fmt.Println("cid", cid)
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)

	// To the host: written and read at the same time, half closed at the end.
	c, err := vsock.Dial(vsock.Host, 7000, nil)
	if err != nil {
		return err
	}
	if err := exchange(c, data); err != nil {
		return err
	}
	fmt.Println("to the host: same bytes")

	// Round trips of one byte.
	if c, err = vsock.Dial(vsock.Host, 7000, nil); err != nil {
		return err
	}
	start := time.Now()
	one := []byte{7}
	for range 100 {
		if _, err := c.Write(one); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, one); err != nil {
			return err
		}
	}
	fmt.Println("round trip", time.Since(start)/100)
	if err := c.Close(); err != nil {
		return err
	}

	// A port where nobody listens.
	if c, err := vsock.Dial(vsock.Host, 7001, nil); err == nil {
		c.Close()
		return fmt.Errorf("a refused port was connected")
	}
	fmt.Println("refused port: refused")

	// From the host: echo.
	l, err := vsock.Listen(8000, nil)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	in, err := l.Accept()
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(in, io.TeeReader(in, h))
	in.(*vsock.Conn).CloseWrite()
	fmt.Printf("from the host: %d bytes, %x, %v\n", n, h.Sum(nil), err)
	// The host has everything once it closes.
	io.Copy(io.Discard, in)
	return in.Close()
}

func exchange(c *vsock.Conn, data []byte) error {
	defer c.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.CloseWrite()
		}
		wrote <- err
	}()
	back, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes came back, not the same", len(back))
	}
	return nil
}
