package initramfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
)

// The stages of Debian's scripts ask the daemon with one line each, in this
// order and once each:
//
//	key NAME MAJOR:MINOR   answer: the key's bytes
//	bottom ROOT            answer: debianDone, once the verifier acknowledged
//
// Anything else, or anything twice, is a boot that went astray, and ends it.
const (
	debianDone  = "ok\n"
	requestSize = 512
	requestTime = 10 * time.Second
)

// listen makes the socket. Only root can reach it, as only root runs here.
func (d *debian) listen() (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.path(debianSocket), Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(d.path(debianSocket), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// request waits for the next stage, and for what it says.
func (d *debian) request(ctx context.Context, l *net.UnixListener, stage string) (*net.UnixConn, []string, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("waiting for the stage %q: %w", stage, context.Cause(ctx))
		}
		return nil, nil, err
	}
	c.SetDeadline(time.Now().Add(requestTime))
	if err := d.checks.peer(c); err != nil {
		c.Close()
		return nil, nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(c, requestSize)).ReadString('\n')
	if err != nil {
		c.Close()
		return nil, nil, code.Wrap(code.BootStage, fmt.Errorf("reading what stage is next: %w", err))
	}
	f := strings.Fields(line)
	if len(f) == 0 || f[0] != stage {
		c.Close()
		return nil, nil, code.Wrap(code.BootStage, fmt.Errorf("the next stage is %q, and %.80q came", stage, line))
	}
	c.SetDeadline(time.Time{})
	return c, f[1:], nil
}

func rootPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 {
		return code.Wrap(code.BootStage, fmt.Errorf("user %d asked", cred.Uid))
	}
	return nil
}

// serveKey gives the key away, once: for the configured name alone, and for the
// very device whose header was read.
func (d *debian) serveKey(ctx context.Context, l *net.UnixListener) error {
	c, f, err := d.request(ctx, l, "key")
	if err != nil {
		return err
	}
	defer c.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.disk.Fd()), &st); err != nil {
		return err
	}
	want := deviceNumber(st.Rdev)
	if len(f) != 2 || f[0] != d.entry.Name || f[1] != want {
		return code.Wrap(code.BootStage, fmt.Errorf("the key of %.80q was asked for, and it is for [%s %s]", f, d.entry.Name, want))
	}
	key := d.rel.payload.DiskKey
	defer key.Zero()
	d.rel.payload.PreviousDiskKey.Zero()
	c.SetDeadline(time.Now().Add(requestTime))
	if _, err := c.Write(key.Bytes()); err != nil {
		return fmt.Errorf("handing the key over: %w", err)
	}
	d.log.step("key", "given to cryptsetup for %s", d.entry.Name)
	return nil
}

func deviceNumber(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// serveBottom looks at what was mapped and mounted in the meantime, and reports.
func (d *debian) serveBottom(ctx context.Context, l *net.UnixListener) error {
	c, f, err := d.request(ctx, l, "bottom")
	if err != nil {
		return err
	}
	defer c.Close()
	if len(f) != 1 || f[0][0] != '/' {
		return code.Wrap(code.BootStage, fmt.Errorf("the stage bottom names %.80q, and no root", f))
	}
	if err := d.bottom(ctx, f[0]); err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(requestTime))
	_, err = io.WriteString(c, debianDone)
	return err
}

func (d *debian) bottom(ctx context.Context, root string) error {
	dev, err := d.checks.mapping(d.entry.Name, d.disk, d.record)
	if err != nil {
		return err
	}
	if err := d.checks.mounted(d.path(root), dev); err != nil {
		return code.Wrap(code.BootMount, err)
	}
	d.log.step("root", "%s is /dev/mapper/%s on %s", root, d.entry.Name, d.entry.Device)
	if err := d.count(root, ""); err != nil { // of a file system that can be written
		return err
	}
	if err := d.writeSecrets(d.rel.payload); err != nil {
		return fmt.Errorf("writing secrets: %w", err)
	}
	if err := d.outcome(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // too late: the failure may be announced already
	}
	return nil
}

// rootIs wants the file system on root to be the mapping's, and /usr to be in
// it: Debian's scripts would mount another one by the name that fstab has.
func rootIs(root string, dev uint64) error {
	var st, above unix.Stat_t
	if err := unix.Lstat(root, &st); err != nil {
		return fmt.Errorf("looking at %s: %w", root, err)
	}
	if uint64(st.Dev) != dev {
		return fmt.Errorf("%s is on device %s, and the mapping is %s", root, deviceNumber(uint64(st.Dev)), deviceNumber(dev))
	}
	if err := unix.Lstat(root+"/..", &above); err != nil || above.Dev == st.Dev {
		return fmt.Errorf("%s is no mount point", root)
	}
	var usr unix.Stat_t
	err := unix.Lstat(root+"/usr", &usr)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at %s/usr: %w", root, err)
	}
	if usr.Dev != st.Dev {
		return fmt.Errorf("%s/usr is on device %s: a /usr of its own is not served", root, deviceNumber(uint64(usr.Dev)))
	}
	return nil
}

// DebianKey is the keyscript's side: the key, all of it or nothing. The caller
// wipes it.
func DebianKey(name, source string) (*secret.Bytes, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return nil, fmt.Errorf("looking at %q: %w", source, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("%q is no block device", source)
	}
	return askDaemon("key " + name + " " + deviceNumber(st.Rdev))
}

// DebianBottom is local-bottom's side: it returns when the verifier has
// acknowledged the boot.
func DebianBottom(root string) error {
	answer, err := askDaemon("bottom " + root)
	if err != nil {
		return err
	}
	defer answer.Zero()
	if string(answer.Bytes()) != debianDone {
		return errors.New("the boot was not acknowledged")
	}
	return nil
}

// DebianClosed tells the daemon that Debian's scripts look for the root a second
// time, so that it ends the boot, and says so to the verifier.
func DebianClosed() error {
	_, err := askDaemon("closed")
	return err
}

// daemonGrace is how long the daemon has for its last words to the verifier
// before a stage that got no answer powers off by itself.
const daemonGrace = 2 * failedWait

// askDaemon has no deadline: the daemon has one, and powers off.
func askDaemon(line string) (*secret.Bytes, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: debianSocket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return nil, err
	}
	b, err := secret.ReadAll(c, requestSize)
	if err != nil || b.Len() == 0 {
		time.Sleep(daemonGrace)
		return nil, errors.New("the process that holds this boot gave no answer")
	}
	return b, nil
}
