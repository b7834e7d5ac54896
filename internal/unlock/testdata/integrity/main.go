// Command integrity is PID 1 of the virtual machine in which disks with
// integrity are attacked. It does what the test on the host asks over a
// virtio-serial port, one line each, and answers with one line.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/dm"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/snpsim/qemu/guesttest/guestinit"
	"attestbox/internal/store/onefile"
	"attestbox/internal/unlock"
	"attestbox/internal/volume"
	"attestbox/internal/wire"
)

func main() {
	guestinit.Prepare()
	port, err := guestinit.Port("ctl")
	if err != nil {
		fmt.Println("CASE", err)
		guestinit.PowerOff()
	}
	os.Setenv("DM_DISABLE_UDEV", "1")
	os.Setenv("PATH", "/bin")
	if volumes, err = newStore(); err != nil {
		fmt.Println("CASE", err)
	}
	in := bufio.NewScanner(port)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		args := strings.Split(in.Text(), "\t")
		answer := do(args[0], args[1:])
		fmt.Println("CASE", args, answer)
		fmt.Fprintln(port, answer)
		if args[0] == "off" {
			break
		}
	}
	guestinit.PowerOff()
}

var (
	opened  = map[string]*unlock.Result{}
	held    []*os.File
	volumes *cryptstore.Store
)

func do(command string, a []string) string {
	switch command {
	case "wait": // for a disk: probing ends some time after the module is loaded
		for range 2000 {
			if _, err := os.Stat(a[0]); err == nil {
				return "ok"
			}
			time.Sleep(10 * time.Millisecond)
		}
		return "error: no " + a[0]
	case "open": // device, name, record, key file
		var rec wire.HeaderRecord
		if err := json.Unmarshal([]byte(a[2]), &rec); err != nil {
			return said(err)
		}
		key, err := os.ReadFile(a[3])
		if err != nil {
			return said(err)
		}
		res, err := unlock.Unlock(context.Background(), a[0], a[1], &rec, secret.Take(key))
		opened[a[1]] = res
		return said(err)
	case "vcreate": // device, name, tag; with a fourth, cut off half way
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		res, err := volume.CreateOn(ctx, volumes, a[2], a[0], a[1], nil, func(step string, done, total int64) {
			if len(a) > 3 && step == "format" && done > total/2 {
				cancel()
			}
		})
		opened[a[1]] = res
		return said(err)
	case "vopen": // device, name, tag
		res, err := volume.OpenOn(context.Background(), volumes, a[2], a[0], a[1])
		opened[a[1]] = res
		return said(err)
	case "vuse": // device, name, tag, mount point, mkfs: opens or makes it, and mounts it
		res, _, err := volume.UseOn(context.Background(), volumes, a[2], a[0], a[1], volume.Use{CreateIfEmpty: true,
			FileSystem: &volume.FileSystem{Dir: a[3], Mkfs: a[4], UID: 7, GID: 8, Log: os.Stderr}})
		opened[a[1]] = res
		return said(err)
	case "stat": // owner of a file, and how its file system is mounted
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(unix.Stat(a[0], &st), unix.Statfs(a[0], &fs)); err != nil {
			return said(err)
		}
		return fmt.Sprintf("%d:%d nosuid %v nodev %v", st.Uid, st.Gid, fs.Flags&unix.ST_NOSUID != 0, fs.Flags&unix.ST_NODEV != 0)
	case "foreign": // device, name, record: a mapping of cryptsetup's making
		var rec wire.HeaderRecord
		if err := json.Unmarshal([]byte(a[2]), &rec); err != nil {
			return said(err)
		}
		f, err := os.Open(a[0])
		if err != nil {
			return said(err)
		}
		defer f.Close()
		_, err = dm.CheckCryptsetup(a[1], f, &rec)
		return said(err)
	case "check":
		return said(opened[a[0]].Mapping.Check())
	case "close":
		return said(opened[a[0]].Mapping.Remove())
	case "record": // of a device: what unlock-luks record prints
		f, err := os.Open(a[0])
		if err != nil {
			return said(err)
		}
		defer f.Close()
		header, err := luks.ReadHeader(f)
		if err != nil {
			return said(err)
		}
		rec, err := luks.RecordOf(header)
		if err != nil {
			return said(err)
		}
		text, _ := json.Marshal(rec)
		return string(text)
	case "hold": // the device's start stays in the page cache from here on
		f, err := os.Open(a[0])
		if err != nil {
			return said(err)
		}
		held = append(held, f)
		_, err = f.ReadAt(make([]byte, 4<<20), 0)
		return said(err)
	case "release":
		for _, f := range held {
			unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
			f.Close()
		}
		held = nil
		return "ok"
	case "read": // device, offset, size: SHA-256, past the page cache
		b, err := direct(a[0], number(a[1]), number(a[2]), nil)
		if err != nil {
			return said(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	case "write": // device, offset, size, byte
		b := bytes.Repeat([]byte(a[3]), int(number(a[2])))
		_, err := direct(a[0], number(a[1]), 0, b)
		return said(err)
	case "readall": // device: size, SHA-256, and how many blocks do not authenticate
		return readAll(a[0])
	case "mount":
		os.MkdirAll("/mnt", 0o755)
		return said(unix.Mount(a[0], "/mnt", "ext4", 0, ""))
	case "put":
		return said(os.WriteFile("/mnt/"+a[0], []byte(strings.Repeat(a[1], 5000)), 0o600))
	case "get":
		b, err := os.ReadFile("/mnt/" + a[0])
		if err != nil {
			return said(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	case "umount":
		unix.Sync()
		return said(unix.Unmount("/mnt", 0))
	case "drop": // every cache that lets go
		unix.Sync()
		os.WriteFile("/sys/module/dm_bufio/parameters/retain_bytes", []byte("0"), 0)
		return said(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	case "run":
		out, err := exec.Command(a[0], a[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("error: %v: %q", err, out)
		}
		return "ok"
	case "off":
		return "ok"
	}
	return "error: no such command"
}

// newStore is a sealed store for volumes, as lasting as the guest.
func newStore() (*cryptstore.Store, error) {
	raw, err := onefile.Open("/tmp/store")
	if err != nil {
		return nil, err
	}
	return cryptstore.Create(context.Background(), raw, "main", cryptstore.KeyFile{Key: secret.Random(32)}, cryptstore.Options{})
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// said is "ok", the code of a refusal, "EIO", or the error.
func said(err error) string {
	c, ok := code.Of(err)
	switch {
	case err == nil:
		return "ok"
	case ok && (unlock.IsRefusal(err) || strings.HasPrefix(string(c), "volume-")):
		return string(c)
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EILSEQ):
		return "EIO"
	}
	return "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
}

// direct reads n bytes, or writes b, without the page cache.
func direct(name string, off, n int64, b []byte) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := aligned(max(int(n), len(b)))
	if b == nil {
		_, err := f.ReadAt(buf, off)
		return buf, err
	}
	copy(buf, b)
	if _, err := f.WriteAt(buf, off); err != nil {
		return nil, err
	}
	return nil, f.Sync()
}

func aligned(n int) []byte {
	b := make([]byte, n+4096)
	return b[4096-uintptr(unsafe.Pointer(&b[0]))%4096:][:n]
}

func readAll(name string) string {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return said(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return said(err)
	}
	h, bad := sha256.New(), 0
	buf := aligned(1 << 20)
	for off := int64(0); off < size; off += 1 << 20 {
		b := buf[:min(1<<20, size-off)]
		if _, err := f.ReadAt(b, off); err == nil {
			h.Write(b)
			continue
		}
		for at := int64(0); at < int64(len(b)); at += 4096 {
			if _, err := f.ReadAt(b[at:at+4096], off+at); err != nil {
				bad++
			}
		}
	}
	return fmt.Sprintf("%d bytes, SHA-256 %x, %d bad", size, h.Sum(nil), bad)
}
