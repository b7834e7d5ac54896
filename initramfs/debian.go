package initramfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Where a Debian initramfs has its crypttab, and the socket between the stages.
const (
	debianCrypttab = "/cryptroot/crypttab"
	debianSocket   = "/run/attestbox/boot.sock"
)

// debian is a boot in Debian's own initramfs (initramfs-tools): one process
// that lives from local-top, where it gets the release, until local-bottom,
// where it reports the outcome. So no secret lies in a file in between, and a
// boot that stops on its way is powered off by the timeout. The stages of
// Debian's scripts talk to it over a socket.
type debian struct {
	*Init
	entry  *config.Crypttab
	disk   *os.File // held open, so that its number cannot pass to another device
	record *wire.HeaderRecord
	checks debianChecks
}

// debianChecks are what tests replace.
type debianChecks struct {
	openDisk   func(device string) (*os.File, error)
	superblock func(disk *os.File, record *wire.HeaderRecord) error
	mapping    func(name string, disk *os.File, record *wire.HeaderRecord) (dev uint64, err error)
	mounted    func(root string, dev uint64) error
	tmpfs      func(dir string) error
	peer       func(c *net.UnixConn) error
}

func newDebian(in *Init) *debian {
	return &debian{Init: in, checks: debianChecks{
		openDisk:   func(device string) (*os.File, error) { return os.Open(device) },
		superblock: dm.CheckSuperblock,
		mapping: func(name string, disk *os.File, record *wire.HeaderRecord) (uint64, error) {
			m, err := dm.CheckCryptsetup(name, disk, record)
			if err != nil {
				return 0, err
			}
			return m.Dev, nil
		},
		mounted: rootIs,
		tmpfs:   applet.CheckTmpfs,
		peer:    rootPeer,
	}}
}

// DebianDaemon is the process that the stage "top" starts. ready is called when
// the keyscript may come. It returns when the boot was acknowledged, and never
// if it failed: then the machine goes off.
func DebianDaemon(ready func() error) {
	// Nothing but the end of the boot ends it.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	d := newDebian(newInit())
	if err := d.protected(func() error { return d.run(context.Background(), ready) }); err != nil {
		d.end(err)
	}
	d.wipe()
}

// DebianEarly comes before anything of Debian's that could give a shell: SysRq
// off, and the command line judged. It does not return if that fails.
func DebianEarly() {
	d := newDebian(newInit())
	err := d.protected(func() error {
		if err := d.sysrqOff(); err != nil {
			return err
		}
		return d.configure()
	})
	if err != nil {
		d.end(err)
	}
}

// DebianFail ends a boot whose stage could not talk to the daemon: it went
// away, which it never does while the boot may go on.
func DebianFail(err error) { newInit().end(err) }

func newInit() *Init {
	in := &Init{sys: linux{}, deps: realDeps()}
	in.log = &console{w: os.Stderr, level: config.LogInfo, uptime: in.sys.Uptime}
	return in
}

// configure shadows Init.configure: other files, and Debian's rules for the
// command line.
func (d *debian) configure() error {
	read := func(name string) ([]byte, error) {
		f, err := os.Open(d.path(name))
		if err != nil {
			return nil, code.Wrap(code.ConfigBad, err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, config.MaxSize+1))
		return b, code.Wrap(code.ConfigBad, err)
	}
	table, err := read(debianCrypttab)
	if err != nil {
		return err
	}
	if d.entry, err = config.ParseCrypttab(table); err != nil {
		return fmt.Errorf("%s: %w", debianCrypttab, err)
	}
	line, err := read("/proc/cmdline")
	if err != nil {
		return err
	}
	if err := config.CheckStockCommandLine(string(line), config.InitramfsTools, d.entry.Name); err != nil {
		return err
	}
	file, err := read(config.DebianPath)
	if err != nil {
		return err
	}
	if d.cfg, err = config.ParseDebian(file); err != nil {
		return fmt.Errorf("%s: %w", config.DebianPath, err)
	}
	d.net = d.cfg.Network
	return nil
}

// run is the whole life of the daemon.
func (d *debian) run(ctx context.Context, ready func() error) error {
	if err := d.sysrqOff(); err != nil {
		return err
	}
	if err := d.configure(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(d.cfg.Timeout),
		code.Wrap(code.BootTimeout, fmt.Errorf("not up within %s", time.Duration(d.cfg.Timeout))))
	defer cancel()
	return d.bounded(ctx, func(ctx context.Context) error { return d.stages(ctx, ready) })
}

func (d *debian) stages(ctx context.Context, ready func() error) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.attest(ctx); err != nil {
		return err
	}
	if err := d.validateHeader(ctx); err != nil {
		return err
	}
	defer d.disk.Close()
	l, err := d.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := ready(); err != nil {
		return fmt.Errorf("telling the script of local-top: %w", err)
	}
	if err := d.serveKey(ctx, l); err != nil {
		return err
	}
	return d.serveBottom(ctx, l)
}

// validateHeader reads the header from the disk once, does everything that
// opening the disk would do, and leaves cryptsetup the very bytes in RAM.
func (d *debian) validateHeader(ctx context.Context) (err error) {
	p := d.rel.payload
	if p.DiskKey.Len() == 0 || len(p.Headers) == 0 {
		return code.Wrap(code.BootRelease, fmt.Errorf("the release holds no key or no header record for %s", d.entry.Device))
	}
	wait := d.waitDevice
	if d.deps.waitDevice != nil {
		wait = d.deps.waitDevice
	}
	if err := wait(ctx, d.entry.Device); err != nil {
		return err
	}
	if d.disk, err = d.checks.openDisk(d.path(d.entry.Device)); err != nil {
		return code.Wrap(code.BootMedia, err)
	}
	defer func() {
		if err != nil {
			d.disk.Close()
		}
	}()
	header, err := d.chooseRecord(p)
	if err == nil {
		err = d.checks.superblock(d.disk, d.record)
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", d.entry.Device, err)
	}
	digest, err := hexDigest(d.record)
	if err != nil {
		return err
	}
	d.opened = append(d.opened, digest)
	if err := d.writeHeader(header); err != nil {
		return fmt.Errorf("writing %s: %w", d.entry.Header(), err)
	}
	d.log.step("header", "%s has header %x, and the key fits", d.entry.Device, digest[:8])
	return nil
}

func hexDigest(r *wire.HeaderRecord) (d wire.Hex32, err error) {
	err = d.UnmarshalText([]byte(r.Digest))
	return d, err
}

// chooseRecord reads as many bytes as the largest record covers, once, and finds
// the record that they have. With two keys, during a rotation, the one that
// opens the keyslot is kept as DiskKey.
func (d *debian) chooseRecord(p *wire.Payload) (header []byte, err error) {
	var size int64
	for i := range p.Headers {
		if err := luks.CheckRecord(&p.Headers[i]); err != nil { // bounds its size
			return nil, err
		}
		size = max(size, p.Headers[i].Size)
	}
	buf := make([]byte, size)
	n, err := d.disk.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, code.Wrap(code.LUKSRead, err)
	}
	// A record of one header copy counts only where none of a whole area does.
	slices.SortStableFunc(p.Headers, func(a, b wire.HeaderRecord) int { return len(a.Scope) - len(b.Scope) })
	once := bytes.NewReader(buf[:n])
	for i := range p.Headers {
		d.record = &p.Headers[i]
		if header, err = luks.ReadRegistered(once, d.record); err == nil {
			return header, d.tryKeys(header, p)
		}
		if c, _ := code.Of(err); c != code.LUKSHeaderDigest {
			break
		}
	}
	return nil, err
}

func (d *debian) tryKeys(header []byte, p *wire.Payload) error {
	open := func(key *secret.Bytes) error {
		v, err := luks.OpenWithin(bytes.NewReader(header), d.record, key, luks.Limits{MemoryKiB: headerMemoryKiB})
		v.Close() // cryptsetup recovers the volume key again
		return err
	}
	err := open(p.DiskKey)
	if c, _ := code.Of(err); c != code.LUKSWrongKey || p.PreviousDiskKey.Len() == 0 {
		return err
	}
	if err = open(p.PreviousDiskKey); err == nil {
		p.DiskKey, p.PreviousDiskKey = p.PreviousDiskKey, p.DiskKey
	}
	return err
}

// headerMemoryKiB bounds argon2id: cryptsetup does it a second time.
const headerMemoryKiB = 256 << 10

// writeHeader makes the detached header of crypttab's line: a new file, root's
// alone, on tmpfs.
func (d *debian) writeHeader(header []byte) error {
	file := d.path(d.entry.Header())
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := d.checks.tmpfs(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(header); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
