package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Features are pinned: those of the building machine's mke2fs.conf would leak
// into the image. Kernel 6.1 mounts all of them.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// readOnlyFeatures are those of a file system that is never written: no journal
// to replay and nothing to grow into.
const readOnlyFeatures = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// tool finds a program of e2fsprogs, which lies in folders that a user's PATH lacks.
func tool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &ErrNoTool{name}
}

// ErrNoTool says which program of e2fsprogs is missing.
type ErrNoTool struct{ Name string }

func (e *ErrNoTool) Error() string { return e.Name + " not found" }

// makeFS writes the source as ext4 into f.
func makeFS(ctx context.Context, f *os.File, size int64, o *Options) error {
	mke2fs, err := tool("mke2fs")
	if err != nil {
		return err
	}
	debugfs, err := tool("debugfs")
	if err != nil {
		return err
	}
	src, err := openSource(o, size)
	if err != nil {
		return err
	}
	defer func() { src.close() }() // which close it is may change below

	epoch := o.Epoch
	if epoch.IsZero() {
		for i := range src.entries {
			if t := src.entries[i].mtime; t.After(epoch) {
				epoch = t
			}
		}
	}
	if epoch.Unix() <= 0 {
		epoch = time.Unix(1, 0) // 0 means "now" to e2fsprogs
	}
	if o.UUID == "" {
		o.UUID = src.uuid(size, epoch)
	}
	if err := src.addInstance(o, epoch); err != nil {
		return err
	}
	o.Progress("file system", 0, size)
	// mke2fs's default number of inodes, more for many small files.
	inodes, reserved, features := max(size/16384, int64(2*len(src.entries)+1024)), "1", features
	if o.readOnly {
		inodes, reserved, features = int64(len(src.entries)+64), "0", readOnlyFeatures
	}
	_, err = run(ctx, f, epoch, nil, mke2fs, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(blockSize), "-I", "256", "-m", reserved,
		"-N", strconv.FormatInt(inodes, 10), "-O", features, "-U", derivedUUID(o.UUID, "ext4"),
		"-E", "hash_seed="+derivedUUID(o.UUID, "ext4 hash seed")+",lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0",
		"-d", src.dir, fdPath, strconv.FormatInt(size/blockSize, 10))
	if err != nil {
		if strings.Contains(err.Error(), "No space") || strings.Contains(err.Error(), "no space") || strings.Contains(err.Error(), "Could not allocate") {
			err = fmt.Errorf("%w (the source does not fit in %d bytes)", err, size)
		}
		return fmt.Errorf("making ext4 from %q: %w", o.From, err)
	}
	script, err := src.script(epoch)
	if err != nil {
		return err
	}
	out, err := run(ctx, f, epoch, script, debugfs, "-w", "-f", "-", fdPath)
	if err != nil {
		return fmt.Errorf("setting owners and times in ext4: %w", err)
	}
	// debugfs goes on after an error and exits 0: anything but its echo of the
	// commands and its version is one.
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Allocated inode:") {
			return fmt.Errorf("setting owners and times in ext4: %s", line)
		}
	}
	o.Progress("file system", size, size)
	return nil
}

// fdPath is how a child sees the file that run hands it.
const fdPath = "/proc/self/fd/3"

func run(ctx context.Context, f *os.File, epoch time.Time, stdin []byte, prog string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, prog, args...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "MKE2FS_CONFIG=/dev/null", "MKE2FS_SYNC=0",
		"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(epoch.Unix(), 10),
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(prog), err, lastLine(out))
	}
	return string(out), nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// script is debugfs commands that give every inode its owner, mode and times
// and make device nodes and files of our own. mke2fs copies owners and times from the staged
// files, which a user cannot set.
func (s *source) script(epoch time.Time) ([]byte, error) {
	var b bytes.Buffer
	for i := range s.entries {
		e := &s.entries[i]
		p, err := quote(e.path)
		if err != nil {
			return nil, err
		}
		if e.create.before != "" {
			dir, err := quote(filepath.Dir(e.path))
			if err != nil {
				return nil, err
			}
			base, err := quote(filepath.Base(e.path))
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "cd %s\n%s %s %s\ncd /\n", dir, e.create.before, base, e.create.after)
		}
		for _, x := range e.xattrs {
			fmt.Fprintf(&b, "ea_set -f %s %s %s\n", x.file, p, x.name)
		}
		t := e.mtime.Unix()
		if e.mtime.After(epoch) {
			t = epoch.Unix()
		}
		set := func(field, value string) { fmt.Fprintf(&b, "sif %s %s %s\n", p, field, value) }
		set("uid", strconv.Itoa(e.uid))
		set("gid", strconv.Itoa(e.gid))
		set("mode", "0"+strconv.FormatUint(uint64(unixMode(e.mode)), 8))
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			set(field, "@"+strconv.FormatInt(t, 10))
		}
	}
	return b.Bytes(), nil
}

// quote writes a path for debugfs, whose words have no escape for line ends.
func quote(p string) (string, error) {
	for i := range len(p) {
		if p[i] < 0x20 || p[i] == 0x7f {
			return "", fmt.Errorf("%w: name %q holds a control character", ErrSource, p)
		}
	}
	return `"` + strings.ReplaceAll(p, `"`, `""`) + `"`, nil
}

// unixMode is st_mode of a Go file mode.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for _, x := range []struct {
		is fs.FileMode
		u  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&x.is != 0 {
			u |= x.u
		}
	}
	switch {
	case m.IsRegular():
		return u | 0o100000
	case m.IsDir():
		return u | 0o040000
	case m&fs.ModeSymlink != 0:
		return u | 0o120000
	case m&fs.ModeNamedPipe != 0:
		return u | 0o010000
	case m&fs.ModeCharDevice != 0:
		return u | 0o020000
	case m&fs.ModeDevice != 0:
		return u | 0o060000
	}
	return u
}

var errEmpty = errors.New("is empty")
