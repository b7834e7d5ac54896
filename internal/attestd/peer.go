package attestd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errGone is a caller that ended, or that executed another program.
var errGone = errors.New("the caller ended or runs another program now")

// maxProc bounds what is read of a file in /proc, in bytes.
const maxProc = 8 << 20

// peer is one execution of a program, held on to by descriptors.
type peer struct {
	pid      int
	uid, gid uint32

	pidfd int      // refers to this process for ever
	proc  *os.File // /proc/PID of this process; fails once it ended
	maps  *os.File // /proc/PID/maps of this execution; empty after execve
	exe   *os.File // the executable; open, so that its inode number is not reused
	stat  unix.Stat_t

	program Program
	why     string // it is unmeasured
}

func (p *peer) close() {
	for _, f := range []*os.File{p.proc, p.maps, p.exe} {
		if f != nil {
			f.Close()
		}
	}
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
}

// identify holds on to the process that connected and finds its program.
func identify(c *net.UnixConn, m Measurer) (_ *peer, err error) {
	p := &peer{pidfd: -1}
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("identifying the caller: %w", err)
		}
	}()
	err = control(c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		p.pid, p.uid, p.gid = int(cred.Pid), cred.Uid, cred.Gid
		if p.pid <= 0 {
			return errors.New("it is in another PID namespace")
		}
		// Linux 6.5 knows the process itself. Before that its number must do:
		// it may be another process by now, but then none of what the first one
		// wrote after the challenge can come from that number.
		p.pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if errors.Is(err, unix.ENOPROTOOPT) {
			p.pidfd, err = unix.PidfdOpen(p.pid, 0)
		}
		if err != nil {
			p.pidfd = -1
			return fmt.Errorf("pidfd: %w", err)
		}
		unix.CloseOnExec(p.pidfd)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if p.proc, err = open(unix.AT_FDCWD, fmt.Sprintf("/proc/%d", p.pid), unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	if err := p.alive(); err != nil {
		return nil, err
	}
	// The memory first, the executable second: if execve comes between them,
	// the memory is gone at the next check.
	if p.maps, err = open(int(p.proc.Fd()), "maps", unix.O_RDONLY); err != nil {
		return nil, err
	}
	if p.exe, err = open(int(p.proc.Fd()), "exe", unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	if err := unix.Fstat(int(p.exe.Fd()), &p.stat); err != nil {
		return nil, err
	}
	if p.why, err = p.doubt(m); err != nil {
		return nil, err
	}
	if p.why == "" {
		p.program, p.why = p.measure(m)
	}
	return p, p.check(m)
}

func open(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// alive says whether the process of the pidfd still has its number.
func (p *peer) alive() error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", p.pidfd))
	if err != nil {
		return err
	}
	if field(b, "Pid:") != strconv.Itoa(p.pid) {
		return errGone
	}
	return nil
}

// check says whether the process still runs the execution that was identified:
// it lives, its memory of then is still in use, its executable is the same
// file, and, if it was measured, nothing speaks against that now.
func (p *peer) check(m Measurer) error {
	if err := p.alive(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(p.proc.Fd()), "exe", &st, 0); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	if st.Dev != p.stat.Dev || st.Ino != p.stat.Ino {
		return errGone
	}
	if p.program.Measured() {
		if why, err := p.doubt(m); err != nil || why != "" {
			return errors.Join(err, fmt.Errorf("%w: %s", errGone, why))
		}
	}
	// Last: if the memory is in use now, it was at each step above.
	var one [1]byte
	if n, err := p.maps.ReadAt(one[:], 0); n != 1 {
		return fmt.Errorf("%w (%v)", errGone, err)
	}
	return nil
}

// measure asks what the executable is.
func (p *peer) measure(m Measurer) (Program, string) {
	kind, err := m.Kind(p.exe)
	if err != nil {
		return Program{}, err.Error()
	}
	if kind == "" {
		return Program{}, "its executable is neither fs-verity nor on dm-verity nor part of the image"
	}
	prog, err := m.Measure(p.exe, kind)
	if err != nil {
		return Program{}, err.Error()
	}
	return prog, ""
}

// doubt is the reason why the digest of its executable does not say what the
// process does: namespaces, a tracer, another user, changeable code.
func (p *peer) doubt(m Measurer) (why string, err error) {
	for _, ns := range []string{"ns/user", "ns/pid"} {
		own, oerr := os.Readlink("/proc/self/" + ns)
		buf := make([]byte, 64)
		n, err := unix.Readlinkat(int(p.proc.Fd()), ns, buf)
		switch {
		case errors.Is(oerr, os.ErrNotExist) && errors.Is(err, unix.ENOENT): // a kernel without them
		case err != nil:
			return "", fmt.Errorf("%w: %s: %w", errGone, ns, err)
		case oerr != nil || string(buf[:n]) != own:
			return "it is in another namespace, " + ns, nil
		}
	}
	status, err := p.read("status", 64<<10)
	if err != nil {
		return "", err
	}
	if t := field(status, "TracerPid:"); t != "0" {
		return "it is traced, by process " + t, nil
	}
	// Real, effective, saved and file system user (proc(5)); SO_PEERCRED has
	// the effective one at the time of connect.
	if f := strings.Fields(line(status, "Uid:")); len(f) != 4 || f[1] != strconv.FormatUint(uint64(p.uid), 10) {
		return "it changed its user after it connected", nil
	}
	return p.code(m)
}

// read is a file in the process's folder in /proc, of at most max bytes.
func (p *peer) read(name string, max int64) ([]byte, error) {
	f, err := open(int(p.proc.Fd()), name, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", errGone, name)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s of the caller has more than %d bytes", name, max)
	}
	return b, nil
}

// code looks at every executable mapping: each must be of a file that cannot
// change, and must not have been written to. /proc/PID/exe alone would not do:
// whoever makes a user namespace can point it at another file
// (prctl(2), PR_SET_MM_MAP).
func (p *peer) code(m Measurer) (why string, err error) {
	smaps, err := p.read("smaps", maxProc)
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("%02x:%02x %d", unix.Major(p.stat.Dev), unix.Minor(p.stat.Dev), p.stat.Ino)
	seen := map[string]bool{own: true}
	executable, hasOwn := false, false
	for l := range strings.Lines(string(smaps)) {
		f := strings.Fields(l)
		if len(f) > 1 && strings.HasSuffix(f[0], ":") { // a property of the mapping above
			if executable && (f[0] == "Anonymous:" || f[0] == "Swap:") && f[1] != "0" {
				return "it has changed its code in memory", nil
			}
			continue
		}
		// START-END PERMS OFFSET MAJOR:MINOR INODE PATH (proc(5))
		if len(f) < 5 || len(f[1]) < 4 {
			return "its mappings cannot be read", nil
		}
		executable = f[1][2] == 'x'
		if !executable {
			continue
		}
		if f[4] == "0" {
			// The kernel's own pages; nobody else can give a mapping such a name.
			if len(f) == 6 && (f[5] == "[vdso]" || f[5] == "[vsyscall]") {
				executable = false
				continue
			}
			return "it has executable memory that is no file's", nil
		}
		id := f[3] + " " + f[4]
		hasOwn = hasOwn || id == own
		if seen[id] {
			continue
		}
		seen[id] = true
		start, end, _ := strings.Cut(f[0], "-")
		lo, err1 := strconv.ParseUint(start, 16, 64)
		hi, err2 := strconv.ParseUint(end, 16, 64)
		if err1 != nil || err2 != nil {
			return "its mappings cannot be read", nil
		}
		same, why := p.library(m, fmt.Sprintf("map_files/%x-%x", lo, hi))
		if why != "" {
			return why + ", mapped from " + strings.Join(f[5:], " "), nil
		}
		hasOwn = hasOwn || same
	}
	if !hasOwn {
		return "it does not run its executable", nil
	}
	return "", nil
}

// library looks at one mapped file and says whether it is the executable, as
// on file systems whose device numbers differ between /proc and stat.
func (p *peer) library(m Measurer, name string) (same bool, why string) {
	const cannot = "a library cannot be examined: "
	f, err := open(int(p.proc.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, cannot + err.Error()
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, cannot + err.Error()
	}
	if st.Dev == p.stat.Dev && st.Ino == p.stat.Ino {
		return true, ""
	}
	kind, err := m.Kind(f)
	switch {
	case err != nil:
		return false, cannot + err.Error()
	case kind == "":
		return false, "a library can change"
	case kind == KindVerity && st.Uid != 0:
		// Anybody may turn fs-verity on for a file of his own.
		return false, "a library is not root's"
	}
	return false, ""
}

// line is what follows a name at the beginning of a line.
func line(b []byte, name string) string {
	for l := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(l, []byte(name)); ok {
			return string(rest)
		}
	}
	return ""
}

// field is the first word of line.
func field(b []byte, name string) string {
	if f := strings.Fields(line(b, name)); len(f) > 0 {
		return f[0]
	}
	return ""
}
