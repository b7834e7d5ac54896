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
func readTable(name string) ([]target, error) {
	ctl, err := os.Open("/dev/mapper/control")
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	buf := make([]byte, tableBuffer)
	hdr := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	hdr.Version = [3]uint32{4, 0, 0}
	hdr.Data_size = tableBuffer
	hdr.Data_start = unix.SizeofDmIoctl
	hdr.Flags = unix.DM_STATUS_TABLE_FLAG
	for i := range min(len(name), len(hdr.Name)-1) {
		hdr.Name[i] = name[i]
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), unix.DM_TABLE_STATUS, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return nil, os.NewSyscallError("DM_TABLE_STATUS", errno)
	}
	if hdr.Flags&unix.DM_BUFFER_FULL_FLAG != 0 {
		return nil, errors.New("table is too large")
	}
	return parseTable(buf, int(hdr.Data_start), int(hdr.Target_count))
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
