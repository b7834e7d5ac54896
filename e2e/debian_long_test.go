package e2e

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/internal/snpsim/qemu"
	"attestbox/internal/testenv"
)

func TestDebianTrixieBoots(t *testing.T) {
	testenv.OnlyLong(t)
	bootsUp(t, "trixie")
}

// The file that cryptsetup takes the header from is gone when it wants it, as
// after a mistake of somebody's scripts: nothing is opened in another way, and
// the machine goes off.
func TestDebianHeaderFileGone(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	s := w.debian(t, "bookworm")
	script := filepath.Join(s.root, "etc/initramfs-tools/scripts/local-top/zz-thief")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" != prereqs ] || { echo attestbox; exit 0; }\nrm /run/attestbox/root.hdr\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(script)
	_, initrd := s.build(t, w)
	id := s.register(t, w, initrd, s.cmdline)
	s.refused(t, w, stockRun{initrd: initrd, cmdline: s.cmdline, id: id, disks: []string{w.copyOf(t, s.disk)}}, "boot-stage")
}

// Words that never reach the verifier, and one that is the verifier's to refuse.
func TestDebianWords(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	s := w.debian(t, "bookworm")
	disk := []string{w.copyOf(t, s.disk)}
	id := s.register(t, w, s.initrd, s.cmdline)
	for _, word := range []string{"cryptopts=target=root,source=/dev/vda,cipher=aes-xts-plain64", "init=/bin/sh", "netboot=nfs", "resume=/dev/vdb"} {
		if console := s.refused(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline + " " + word, id: id, disks: disk}, "boot-override"); strings.Contains(console, "attest:") {
			t.Errorf("with %q the verifier was asked", word)
		}
	}
	s.refused(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline + " loglevel=5", id: id, disks: disk}, "launch-refused")
}

// What gathers disks by what is written on them does not get into the initramfs.
func TestDebianHookTakesOut(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	s := w.debian(t, "trixie")
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "etc/resolv.conf", string(resolv))
	s.chroot(t, w, "sh", "-c", "apt-get update -q && apt-get install -y --no-install-recommends lvm2 mdadm")
	_, initrd := s.build(t, w)
	w.run(t, "cp", initrd, filepath.Join(s.root, "tmp", "initrd"))
	list := s.chroot(t, w, "lsinitramfs", "/tmp/initrd")
	for _, gone := range []string{"lvm", "mdadm", "md-raid", "dmraid", "local-premount/resume"} {
		for _, line := range strings.Split(list, "\n") {
			// Kernel modules and modprobe's settings assemble nothing.
			if strings.Contains(line, gone) && !strings.Contains(line, "/modules/") && !strings.Contains(line, "modprobe.d") && !strings.Contains(line, "etc/lvm") && !strings.Contains(line, "etc/mdadm") {
				t.Errorf("the initramfs holds %q", line)
			}
		}
	}
	if !strings.Contains(list, "usr/lib/attestbox/attestbox") {
		t.Error("the initramfs lacks attestbox")
	}
}

// copyOf is a copy of a disk that one test may write.
func (w *world) copyOf(t *testing.T, disk string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "disk.img")
	w.run(t, "cp", "--sparse=always", w.path(disk+".img"), out)
	return out
}

// An update in the running VM: its next image is built, handed to the host and
// nominated. The one that ran can be booted again until the next has booted,
// and not after that.
func TestDebianUpdate(t *testing.T) {
	testenv.OnlyLong(t)
	w := theWorld(t)
	s := w.debian(t, "bookworm")
	disk := w.copyOf(t, s.disk)
	export := filepath.Join(t.TempDir(), "export.img")
	w.run(t, testenv.Tool(t, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", export, "256M")
	id := s.register(t, w, s.initrd, s.cmdline, "-may-nominate")
	both := []string{disk, export}

	commands := []string{
		"dmesg -n 1; mount /dev/vdb /mnt",
		"echo MODULES=list >/etc/initramfs-tools/conf.d/small",
		`printf 'EXPORT=/nowhere\nMEASURE="-vcpus 1 -vcpu-type EPYC-Milan"\n' >/etc/default/attestbox`,
		"/etc/initramfs/post-update.d/attestbox $(uname -r); echo status $?", // says what is missing, and succeeds
		"sed -i s,/nowhere,/mnt, /etc/default/attestbox",
		"update-initramfs -c -k $(uname -r); echo status $?",
		"umount /mnt; systemctl poweroff",
	}
	console, err := s.boot(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline, id: id, disks: both, limit: time.Hour,
		seen: func(line string, typed io.Writer, _ *qemu.QMP) bool {
			switch {
			case strings.Contains(line, loginIssue):
				io.WriteString(typed, "root\n")
			case len(commands) > 0 && (strings.Contains(line, "permitted by applicable law") || strings.Contains(line, "done-42")):
				// Prompts are no whole lines, and so never seen.
				io.WriteString(typed, commands[0]+"; echo done-$((6*7))\n")
				commands = commands[1:]
			}
			return false
		}})
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"W: the folder /nowhere for the host is not there", "can be booted as before", "status 0", ": allowed"} {
		if !strings.Contains(console, want) {
			t.Fatalf("the console lacks %q", want)
		}
	}

	up := func(r stockRun) {
		t.Helper()
		r.id, r.disks = id, both
		r.seen = func(line string, _ io.Writer, _ *qemu.QMP) bool { return strings.Contains(line, " acknowledged") }
		if console, err := s.boot(t, w, r); err != nil || !strings.Contains(console, " acknowledged") {
			t.Errorf("not up: %v", err)
		}
	}
	// Back to the old one, as if the host had lost the new one.
	up(stockRun{initrd: s.initrd, cmdline: s.cmdline})
	next := func(file string) string {
		t.Helper()
		out := filepath.Join(t.TempDir(), filepath.Base(file))
		w.run(t, testenv.Tool(t, "debugfs", "e2fsprogs"), "-R", "dump "+file+" "+out, export)
		return out
	}
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	dir := "/" + strings.TrimSpace(read(next("/next")))
	cmdline := read(next(dir + "/cmdline"))
	if cmdline != s.cmdline {
		t.Errorf("the next command line is %q", cmdline)
	}
	up(stockRun{initrd: next(dir + "/initrd"), cmdline: cmdline})
	s.refused(t, w, stockRun{initrd: s.initrd, cmdline: s.cmdline, id: id, disks: both}, "launch-refused")
}
