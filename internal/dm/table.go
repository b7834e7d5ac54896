package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// target is one line of a table, as the kernel reports it.
type target struct {
	start, length uint64 // sectors of 512 bytes
	kind          string
	params        string
}

// String leaves out a key that somebody put into the table itself.
func (t target) String() string {
	if f := strings.Fields(t.params); t.kind == "crypt" && (len(f) < 2 || !strings.HasPrefix(f[1], ":")) {
		return fmt.Sprintf("%d %d crypt [key in the table, not shown]", t.start, t.length)
	}
	return fmt.Sprintf("%d %d %s %s", t.start, t.length, t.kind, t.params)
}

// tableBuffer is enough for several crypt targets; a larger answer is refused.
const tableBuffer = 16 << 10

// readTable asks for the live table (DM_TABLE_STATUS with DM_STATUS_TABLE_FLAG).
func readTable(name string) ([]target, error) { return ask(name, unix.DM_STATUS_TABLE_FLAG) }

// readStatus asks for what the targets say of themselves, in place of parameters.
func readStatus(name string) ([]target, error) { return ask(name, 0) }

func ask(name string, flags uint32) ([]target, error) {
	buf := make([]byte, tableBuffer)
	hdr := header(buf, name)
	hdr.Flags = flags
	if err := control(unix.DM_TABLE_STATUS, "DM_TABLE_STATUS", buf); err != nil {
		return nil, err
	}
	if hdr.Flags&unix.DM_BUFFER_FULL_FLAG != 0 {
		return nil, errors.New("table is too large")
	}
	return parseTable(buf, int(hdr.Data_start), int(hdr.Target_count))
}

// loadTable gives a mapping its next table of one target.
func loadTable(name string, t target, flags uint32) error {
	const spec = unix.SizeofDmTargetSpec
	// The parameters end with a zero and are padded to 8 bytes.
	buf := make([]byte, unix.SizeofDmIoctl+spec+(len(t.params)+8)&^7)
	hdr := header(buf, name)
	hdr.Target_count = 1
	hdr.Flags = flags
	s := buf[unix.SizeofDmIoctl:]
	binary.NativeEndian.PutUint64(s[0:], t.start)
	binary.NativeEndian.PutUint64(s[8:], t.length)
	binary.NativeEndian.PutUint32(s[20:], uint32(len(s)))
	copy(s[24:39], t.kind)
	copy(s[spec:], t.params)
	return control(unix.DM_TABLE_LOAD, "DM_TABLE_LOAD", buf)
}

// header fills in struct dm_ioctl at the start of buf.
func header(buf []byte, name string) *unix.DmIoctl {
	hdr := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	hdr.Version = [3]uint32{4, 0, 0}
	hdr.Data_size = uint32(len(buf))
	hdr.Data_start = unix.SizeofDmIoctl
	for i := range min(len(name), len(hdr.Name)-1) {
		hdr.Name[i] = name[i]
	}
	return hdr
}

func control(request uintptr, what string, buf []byte) error {
	ctl, err := os.Open("/dev/mapper/control")
	if err != nil {
		return err
	}
	defer ctl.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), request, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return os.NewSyscallError(what, errno)
	}
	return nil
}

// parseTable reads count entries of struct dm_target_spec, each followed by
// its parameters, a zero-terminated string; next counts from data's start.
func parseTable(buf []byte, start, count int) ([]target, error) {
	const spec = unix.SizeofDmTargetSpec
	var out []target
	if count < 0 || count > 64 || start < 0 || start > len(buf) {
		return nil, errors.New("malformed table")
	}
	for at := start; len(out) < count; {
		if at < start || at > len(buf)-spec {
			return nil, errors.New("malformed table")
		}
		s := buf[at : at+spec]
		rest := buf[at+spec:]
		end := bytes.IndexByte(rest, 0)
		if end < 0 {
			return nil, errors.New("malformed table")
		}
		kind, _, _ := bytes.Cut(s[24:40], []byte{0})
		out = append(out, target{
			start:  binary.NativeEndian.Uint64(s[0:]),
			length: binary.NativeEndian.Uint64(s[8:]),
			kind:   string(kind),
			params: string(rest[:end]),
		})
		next := start + int(binary.NativeEndian.Uint32(s[20:]))
		if len(out) < count && next <= at {
			return nil, errors.New("malformed table")
		}
		at = next
	}
	return out, nil
}
