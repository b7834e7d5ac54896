package cuse

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Path is CUSE's own device.
const Path = "/dev/cuse"

// Serve creates /dev/sev-guest through fd, an open /dev/cuse, and answers it
// until the kernel ends the connection. It calls ready once the device can be
// opened: the write of CUSE_INIT's answer returns after the device was
// registered. fd stays the caller's.
func (d *Device) Serve(ctx context.Context, fd int, ready func() error) error {
	buf := make([]byte, bufferSize)
	n, err := read(fd, buf)
	if err != nil {
		return fmt.Errorf("reading CUSE_INIT: %w", err)
	}
	reply, err := initReply(buf[:n])
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, reply); err != nil {
		return fmt.Errorf("answering CUSE_INIT: %w", err)
	}
	if err := ready(); err != nil {
		return err
	}
	for {
		n, err := read(fd, buf)
		if err != nil { // ENODEV: another server has the name
			return fmt.Errorf("reading from %s: %w", Path, err)
		}
		reply, err := d.Answer(ctx, buf[:n])
		clear(buf[:n])
		if err != nil {
			return err
		}
		if reply == nil {
			continue
		}
		_, err = unix.Write(fd, reply)
		clear(reply) // a derived key may be in it
		// ENOENT: the caller was interrupted and its request is gone.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("answering a request: %w", err)
		}
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		// ENOENT: a request was interrupted before it was read.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOENT) {
			continue
		}
		return n, err
	}
}
