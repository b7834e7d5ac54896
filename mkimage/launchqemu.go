package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"attestbox/internal/image"
)

func (l *launch) file(name string) string {
	dir := l.dir
	if filepath.Base(dir) == image.RecordName {
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, name)
}

// qemu is QEMU's command for an SNP host, QEMU 9.1 or later.
func (l *launch) qemu() []string {
	m := l.report.Record.Measurement
	b64 := base64.StdEncoding.EncodeToString
	size := strconv.Itoa(l.memory) + "M"
	guest := fmt.Sprintf("sev-snp-guest,id=sev0,cbitpos=%d,reduced-phys-bits=%d,kernel-hashes=on,policy=%#x",
		l.cbitpos, l.reducedBits, uint64(l.policy))
	if l.hostData != [32]byte{} {
		guest += ",host-data=" + b64(l.hostData[:])
	}
	if l.idBlock != nil {
		guest += ",id-block=" + b64(l.idBlock) + ",id-auth=" + b64(l.idAuth)
		if l.authorKey {
			guest += ",author-key-enabled=on"
		}
	}
	argv := []string{l.program, "-enable-kvm", "-nodefaults", "-no-user-config", "-cpu", m.VCPUType, "-smp", strconv.Itoa(m.VCPUs), "-m", size,
		"-machine", "q35,confidential-guest-support=sev0,memory-backend=ram0",
		"-object", "memory-backend-memfd,id=ram0,share=on,size=" + size,
		"-object", guest,
		"-bios", l.ovmf}
	if l.unified {
		argv = append(argv, "-kernel", l.file(image.UKIName))
	} else {
		argv = append(argv, "-kernel", l.file(image.KernelName), "-initrd", l.file(image.InitrdName), "-append", l.report.Cmdline)
	}
	for _, d := range l.disks {
		argv = append(argv, "-drive", "file="+driveFile(d)+",if=virtio,format=raw")
	}
	for _, d := range l.roDisks {
		argv = append(argv, "-drive", "file="+driveFile(d)+",if=virtio,format=raw,readonly=on")
	}
	if l.net == "user" {
		argv = append(argv, "-nic", "user,model=virtio-net-pci")
	}
	if l.vsockCID != 0 {
		argv = append(argv, "-device", "vhost-vsock-pci,guest-cid="+strconv.FormatUint(l.vsockCID, 10))
	}
	return append(argv, "-display", "none", "-serial", "stdio", "-no-reboot")
}

// driveFile is the name of a file as a value in a list of QEMU's options. What is
// before a colon would be a protocol, but not behind a slash.
func driveFile(name string) string {
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		name = "./" + name
	}
	return strings.ReplaceAll(name, ",", ",,")
}

// simulator is the command of the same launch for snp-sim.
func (l *launch) simulator() []string {
	m := l.report.Record.Measurement
	argv := []string{"snp-sim", "run", "-chip", l.chip, "-image", filepath.Dir(l.file(image.KernelName))}
	if l.ovmf != "" {
		argv = append(argv, "-ovmf", l.ovmf)
	}
	argv = append(argv, "-vcpus", strconv.Itoa(m.VCPUs), "-vcpu-type", m.VCPUType, "-guest-features", strconv.FormatUint(m.GuestFeatures, 10),
		"-policy", fmt.Sprintf("%#x", uint64(l.policy)), "-memory", strconv.Itoa(l.memory)+"M")
	if l.hostData != [32]byte{} {
		argv = append(argv, "-host-data", hex.EncodeToString(l.hostData[:]))
	}
	if l.idBlock != nil {
		argv = append(argv, "-id-block", l.idBlockFile, "-id-auth", l.authFile)
		if l.authorKey {
			argv = append(argv, "-author-key-enabled")
		}
	}
	for _, d := range l.disks {
		argv = append(argv, "-disk", d)
	}
	for _, d := range l.roDisks {
		argv = append(argv, "-disk-readonly", d)
	}
	if l.net == "user" {
		argv = append(argv, "-net", "user")
	}
	for _, f := range l.forwards {
		argv = append(argv, "-vsock-forward", f)
	}
	if l.vsockCID != 0 {
		argv = append(argv, "-vsock-cid", strconv.FormatUint(l.vsockCID, 10))
	}
	return argv
}

// shellLine quotes a command for a POSIX shell.
func shellLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:=+@") != "" {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
