package initramfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
)

const sysroot = "/sysroot"

// moved are the mounts that the real system takes over, in this order.
var moved = []string{"/dev", "/proc", "/sys", "/run"}

// Magic numbers of statfs(2) for file systems that live in memory.
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// checkRoot looks, before anything is reported as opened, whether the mounted
// root can be switched to: its init is an executable file, and the mount
// points are folders of its own.
func (in *Init) checkRoot(init string) error {
	root := in.path(sysroot)
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("opening %s: %w", sysroot, err))
	}
	defer unix.Close(dir)
	// /sbin/init is a link to systemd in most systems, often an absolute one:
	// follow it as the new root will.
	fd, err := unix.Openat2(dir, init, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("the root disk has no %s: %w", init, err))
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return code.Wrap(code.BootSwitch, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return code.Wrap(code.BootSwitch, fmt.Errorf("%s of the root disk is not an executable file", init))
	}
	for _, m := range moved {
		if info, err := os.Lstat(filepath.Join(root, m)); err != nil || !info.IsDir() {
			return code.Wrap(code.BootSwitch, fmt.Errorf("the root disk has no folder %s", m))
		}
	}
	return nil
}

// switchRoot moves the kernel's file systems into the new root, empties the
// initramfs so that its memory is given back (and, with init_on_free=1,
// zeroed), makes the new root the root and executes its init. It returns only
// on error, and then there is no way back.
func (in *Init) switchRoot(init string) error {
	root := in.path(sysroot)
	for _, m := range moved {
		if err := in.sys.Mount(in.path(m), filepath.Join(root, m), "", unix.MS_MOVE, ""); err != nil {
			return code.Wrap(code.BootSwitch, fmt.Errorf("moving %s: %w", m, err))
		}
	}
	if err := in.sys.Chdir(root); err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("entering %s: %w", sysroot, err))
	}
	if err := in.deps.empty(in.path("/")); err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("emptying the initramfs: %w", err))
	}
	if err := in.sys.Mount(".", in.path("/"), "", unix.MS_MOVE, ""); err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("moving the new root: %w", err))
	}
	if err := in.sys.Chroot("."); err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("entering the new root: %w", err))
	}
	if err := in.sys.Chdir("/"); err != nil {
		return code.Wrap(code.BootSwitch, fmt.Errorf("entering the new root: %w", err))
	}
	err := in.sys.Exec(init, []string{init}, cleanEnv())
	return code.Wrap(code.BootSwitch, fmt.Errorf("starting %s: %w", init, err))
}

// cleanEnv is what the kernel gives an init, and no more.
func cleanEnv() []string {
	return []string{"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// errNotInitramfs guards emptyInitramfs.
var errNotInitramfs = errors.New("the root is not an initramfs")

// emptyInitramfs deletes everything on the file system of dir, never crossing
// into another one and never following a link. Guards: dir is a tmpfs or ramfs,
// it holds our /init, and another file system is mounted on its /sysroot.
func emptyInitramfs(dir string) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(root, &fs); err != nil {
		return err
	}
	if fs.Type != tmpfsMagic && fs.Type != ramfsMagic {
		return fmt.Errorf("%w: file system type %#x", errNotInitramfs, fs.Type)
	}
	var here, there, init unix.Stat_t
	if err := unix.Fstat(root, &here); err != nil {
		return err
	}
	if err := unix.Fstatat(root, sysroot[1:], &there, unix.AT_SYMLINK_NOFOLLOW); err != nil || there.Dev == here.Dev {
		return fmt.Errorf("%w: nothing is mounted on %s", errNotInitramfs, sysroot)
	}
	if err := unix.Fstatat(root, "init", &init, unix.AT_SYMLINK_NOFOLLOW); err != nil || init.Dev != here.Dev {
		return fmt.Errorf("%w: it has no /init", errNotInitramfs)
	}
	return emptyDir(root, here.Dev, 0)
}

// maxDepth bounds the recursion; our own images are a few levels deep.
const maxDepth = 64

func emptyDir(fd int, dev uint64, depth int) error {
	if depth > maxDepth {
		return errors.New("folders are nested too deeply")
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dup), "folder")
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		switch {
		case st.Dev != dev: // a mount: the new root among them
			continue
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			if err := unix.Unlinkat(fd, name, 0); err != nil {
				return fmt.Errorf("deleting %q: %w", name, err)
			}
			continue
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = emptyDir(sub, dev, depth+1)
		unix.Close(sub)
		if err != nil {
			return err
		}
		// A folder with a mount below it stays.
		if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("deleting %q: %w", name, err)
		}
	}
	return nil
}
