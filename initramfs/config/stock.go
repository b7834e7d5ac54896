package config

import (
	"fmt"
	"slices"
	"strings"

	"attestbox/internal/code"
)

// A distribution's own initramfs reads the kernel command line in many places
// (systemd and its generators, dracut's or initramfs-tools' scripts, udev), each
// with rules of its own about quotes, - and _, and prefixes. So what may stand
// there is listed, word by word, and everything else is refused; what all of
// them read in the same way needs no quotes.

// Initramfs systems of distributions.
const (
	Dracut         = "dracut"          // systemd in the initramfs
	InitramfsTools = "initramfs-tools" // scripts
)

// requiredStock must be there in every distribution's case, beside Required.
// The last two keep systemd from taking credentials (files, units, passwords)
// from SMBIOS and fw_cfg, and partitions of the host's disks for swap or /home;
// efi=noruntime keeps it from reading its options from EFI variables.
var requiredStock = []string{"efi=noruntime", "systemd.import_credentials=no", "systemd.gpt_auto=no"}

// requiredOf is what one kind of initramfs needs beside that.
var requiredOf = map[string][]string{
	Dracut:         {"rd.shell=0", "rd.emergency=poweroff"},
	InitramfsTools: nil,
}

// allowedWords may be there, as they are. OVMF puts initrd=initrd in front of
// the measured line: its name for the measured initramfs.
var allowedWords = []string{
	"initrd=initrd", "quiet", "ro", "rw", "rootwait", "noresume",
	"rng_core.default_quality=0", "rd.lvm=0", "rd.md=0", "rd.dm=0", "rd.systemd.gpt_auto=no", "rd.auto=0",
	"fsck.mode=auto", "fsck.mode=force", "fsck.mode=skip", "fsck.repair=preen", "fsck.repair=no", "fsck.repair=yes",
	"slab_nomerge", "nosmt", "page_alloc.shuffle=1", "vsyscall=none", "oops=panic", "module.sig_enforce=1",
	"systemd.show_status=yes", "systemd.show_status=no", "systemd.show_status=auto", "rd.systemd.show_status=yes", "rd.systemd.show_status=no",
	"mem_encrypt=on", "random.trust_bootloader=off", "random.trust_cpu=on",
}

// allowedNames may be there with any plain value: they choose consoles, log
// levels and kernel features, and nothing that is opened, mounted or run.
var allowedNames = []string{
	"console", "loglevel", "rootfstype", "init_on_alloc", "mitigations", "lockdown", "lsm", "apparmor", "security", "selinux", "audit",
	"clocksource", "tsc", "swiotlb", "transparent_hugepage", "hugepages", "hugepagesz", "default_hugepagesz",
	"ipv6.disable", "net.ifnames", "systemd.log_level", "rd.udev.log_level", "udev.log_level", "rd.timeout", "rd.retry", "rootdelay",
}

// CheckStockCommandLine judges the kernel command line of a distribution's own
// initramfs, which opens the disk as /dev/mapper/volume. Errors have the codes
// boot-override and boot-parameter.
func CheckStockCommandLine(line, kind, volume string) error {
	more, known := requiredOf[kind]
	if !known {
		return fmt.Errorf("initramfs of kind %.40q is not known", kind)
	}
	must := slices.Concat(Required, requiredStock, more, []string{"root=/dev/mapper/" + volume})
	line = strings.TrimSuffix(line, "\n")
	for i := range len(line) {
		if c := line[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(" _-.,:=/+", c) >= 0) {
			return code.Wrap(code.BootOverride, fmt.Errorf("%w: byte 0x%02x need not be there", ErrOverride, c))
		}
	}
	words := strings.Fields(line)
	for _, w := range words {
		if err := stockWord(w, must); err != nil {
			return code.Wrap(code.BootOverride, fmt.Errorf("%w: %w", ErrOverride, err))
		}
	}
	for _, m := range must {
		if !slices.Contains(words, m) {
			return code.Wrap(code.BootParameter, fmt.Errorf("%w: %s", ErrMissing, m))
		}
	}
	return nil
}

func stockWord(w string, must []string) error {
	name, value, isPair := strings.Cut(w, "=")
	switch {
	case slices.Contains(must, w), slices.Contains(allowedWords, w):
		return nil
	case isPair && value != "" && slices.Contains(allowedNames, name):
		return nil
	}
	return fmt.Errorf("%.80q", w)
}
