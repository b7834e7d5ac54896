package attestd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errGone is a caller that ended, or that executed another program.
var errGone = errors.New("the caller ended or runs another program now")

// maxProc bounds what is read of a file in /proc, in bytes.
const maxProc = 1 << 20

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
// process does: namespaces, a tracer, a changeable library.
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
	status, err := open(int(p.proc.Fd()), "status", unix.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errGone, err)
	}
	defer status.Close()
	b := make([]byte, 16<<10)
	n, _ := status.Read(b)
	if t := field(b[:n], "TracerPid:"); t != "0" {
		return "it is traced, by process " + t, nil
	}
	return p.libraries(m)
}

// libraries looks at every executable mapping of a file other than the
// executable itself.
func (p *peer) libraries(m Measurer) (why string, err error) {
	buf := make([]byte, maxProc)
	n := 0
	for n < len(buf) {
		k, err := p.maps.ReadAt(buf[n:], int64(n))
		n += k
		if k == 0 || err != nil {
			break
		}
	}
	if n == 0 {
		return "", errGone
	}
	if n == len(buf) {
		return "it has too many mappings", nil
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(buf[:n])) {
		// START-END PERMS OFFSET MAJOR:MINOR INODE PATH (proc(5))
		f := strings.Fields(line)
		if len(f) < 5 || len(f[1]) < 4 || f[1][2] != 'x' || f[4] == "0" || seen[f[3]+" "+f[4]] {
			continue
		}
		seen[f[3]+" "+f[4]] = true
		if f[3] == fmt.Sprintf("%02x:%02x", unix.Major(p.stat.Dev), unix.Minor(p.stat.Dev)) && f[4] == strconv.FormatUint(p.stat.Ino, 10) {
			continue
		}
		start, end, _ := strings.Cut(f[0], "-")
		lo, err1 := strconv.ParseUint(start, 16, 64)
		hi, err2 := strconv.ParseUint(end, 16, 64)
		if err1 != nil || err2 != nil {
			return "its mappings cannot be read", nil
		}
		if why := p.library(m, fmt.Sprintf("map_files/%x-%x", lo, hi)); why != "" {
			return why + ", mapped from " + strings.Join(f[5:], " "), nil
		}
	}
	return "", nil
}

func (p *peer) library(m Measurer, name string) string {
	f, err := open(int(p.proc.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "a library cannot be examined: " + err.Error()
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "a library cannot be examined: " + err.Error()
	}
	if st.Dev == p.stat.Dev && st.Ino == p.stat.Ino {
		return ""
	}
	kind, err := m.Kind(f)
	switch {
	case err != nil:
		return "a library cannot be examined: " + err.Error()
	case kind == "":
		return "a library can change"
	case kind == KindVerity && st.Uid != 0:
		// Anybody may turn fs-verity on for a file of his own.
		return "a library is not root's"
	}
	return ""
}

// field is the first word after a name at the beginning of a line.
func field(b []byte, name string) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			f := bytes.Fields(rest)
			if len(f) > 0 {
				return string(f[0])
			}
		}
	}
	return ""
}
