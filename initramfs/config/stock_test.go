package config

import (
	"strings"
	"testing"

	"attestbox/internal/code"
)

const stockLine = "init_on_free=1 sysctl.kernel.sysrq=0 panic=1 noresume efi=noruntime systemd.import_credentials=no systemd.gpt_auto=no " +
	"root=/dev/mapper/root"

func TestStockCommandLine(t *testing.T) {
	good := map[string]string{Dracut: stockLine + " rd.shell=0 rd.emergency=poweroff", InitramfsTools: stockLine}
	for kind, line := range good {
		for _, more := range []string{"", " quiet ro console=ttyS0,115200 console=tty0", " initrd=initrd", " rootfstype=ext4 loglevel=4\n"} {
			if err := CheckStockCommandLine(line+more, kind, "root"); err != nil {
				t.Errorf("%s: %q: %v", kind, more, err)
			}
		}
		for _, w := range strings.Fields(line) {
			name, _, _ := strings.Cut(w, "=")
			without := strings.Replace(" "+line+" ", " "+w+" ", " ", 1)
			if c, _ := code.Of(CheckStockCommandLine(without, kind, "root")); c != code.BootParameter {
				t.Errorf("%s: without %s: %q", kind, w, c)
			}
			if c, _ := code.Of(CheckStockCommandLine(line+" "+name+"=other", kind, "root")); c != code.BootOverride {
				t.Errorf("%s: with another %s: %q", kind, name, c)
			}
		}
	}
	if CheckStockCommandLine(stockLine, Dracut, "root") == nil {
		t.Error("dracut's own words may be missing")
	}
	if CheckStockCommandLine(stockLine, "mkinitcpio", "root") == nil {
		t.Error("an unknown kind was judged")
	}
	if c, _ := code.Of(CheckStockCommandLine(stockLine, InitramfsTools, "data")); c != code.BootOverride {
		t.Error("another root than the volume")
	}
}

// What gives a shell, another root, another init, units, credentials, keys or
// files to systemd, dracut or initramfs-tools; each is refused in every form.
func TestStockForbiddenWords(t *testing.T) {
	for _, w := range []string{
		"rd.break", "rd.break=pre-mount", "rd_break", "rd.shell", "rd.shell=1", "rd.emergency=reboot", "rd.debug", "rd.cmdline=ask", "rdbreak",
		"rd.luks=1", "rd.luks.uuid=x", "rd.luks.name=x=root", "rd.luks.key=/k", "rd.luks.options=x", "luks.name=x=root", "luks=no", "luks.crypttab=no",
		"rd.auto", "rd.auto=1", "rd.lvm=1", "rd.lvm.vg=x", "rd.md.uuid=x", "rd.dm=1", "rd.hostonly=0", "rd.driver.pre=x", "rd.driver.blacklist=x",
		"rd.znet=x", "rd.iscsi.initiator=x", "netroot=nbd:1.2.3.4:1", "root=UUID=1", "root=LABEL=root", "root=/dev/vda", "root=gpt-auto", "root=dissect",
		"rd.live.image", "rd.overlay=1", "rd.writable.fsimg=1", "rd.systemd.unit=emergency.target", "rd.systemd.debug_shell", "rd.systemd.verity=1",
		"systemd.debug_shell", "systemd.debug-shell", "systemd.debug_shell=ttyS0", "systemd.default_debug_tty=ttyS0", "systemd.unit=rescue.target",
		"systemd.mask=attestbox-report.service", "systemd.wants=debug-shell.service", "systemd.run=/bin/sh", "systemd.run_success_action=none",
		"systemd.setenv=A=B", "systemd.set_credential=a:b", "systemd.set_credential_binary=a:b", "systemd.import_credentials=yes", "systemd.import_credentials",
		"systemd.import-credentials=yes", "systemd.volatile=yes", "systemd.volatile=overlay", "systemd.verity=1", "roothash=00", "usrhash=00",
		"systemd.gpt_auto=yes", "systemd.gpt_auto", "gpt=1", "systemd.crash_shell", "systemd.crash_shell=1", "systemd.crash_reboot", "systemd.machine_id=0",
		"systemd.hostname=x", "systemd.default_standard_output=tty", "systemd.early_core_pattern=/x", "systemd.extra-unit.x=y", "systemd.firstboot=1",
		"systemd.swap=1", "systemd.mount-extra=x", "systemd.swap-extra=x", "systemd.image_policy=x", "systemd.pull=x", "rd.systemd.pull=x", "systemd.restrict_filesystems=1",
		"systemd.allow_userspace_verity=1", "systemd.condition-first-boot=1", "systemd.battery-check=0", "vmm.notify_socket=x", "tmpfiles.extra=x",
		"mount.usr=/dev/vda1", "mount.usrfstype=x", "rootflags=x-systemd.requires=x", "usrroot=x", "fstab=yes", "rd.fstab=0", "ip=dhcp", "ifname=x:y", "rd.neednet=1",
		"rd.peerdns=0", "nameserver=1.1.1.1", "bootdev=x", "vlan=x", "init=/bin/sh", "rdinit=/bin/sh", "resume=/dev/vda2", "resume_offset=1", "hibernate=1",
		"single", "S", "s", "1", "3", "5", "emergency", "rescue", "-b", "b", "-s", "-", "--", "debug", "break", "break=top", "cryptopts=x", "cryptdevice=x", "netboot=nfs",
		"boot=nfs", "boot=live", "nfsroot=x", "panic=0", "panic=-1", "sysrq_always_enabled", "sysctl.kernel.sysrq=1", "sysctl.kernel/sysrq=1", "sysctl.kernel.core_pattern=x",
		"SYSTEMD_PROC_CMDLINE=x", "SYSTEMD_LOG_LEVEL=debug", "CREDENTIALS_DIRECTORY=/x", "SYSTEMD_UNIT_PATH=/x", "LD_PRELOAD=/x", "PATH=/x", "GODEBUG=x", "NOTIFY_SOCKET=/x",
		"efi=runtime", "efi_no_storage_paranoia", "initrd=other", "bootconfig", "udev.children_max=1", "udev.blockdev_read_only", "module_blacklist=sev_guest",
		"modprobe.blacklist=sev_guest", "modules_load=x", "modules-load=x", "rd.modules-load=x", "plymouth.enable=1", "splash", "rd.plymouth=1", "rd.live.ram", "mem_encrypt=off",
		"earlycon=x", "kgdboc=ttyS0", "netconsole=@/x", "memmap=1G!1G", "pci=x", "iommu=off", "acpi_rsdp=1", "acpi=off", "nosmap", "attestbox.net=none", "attestbox",
		`"rd.break"`, "'rd.break'", `rd.shell="1"`, `a\b`, "$(x)", "quiet;", "console=", "console", "ttyS0", "RD.BREAK", "quiet\x00", "quiet\x7f", "quiet\u00a0ro", "quiet\vro", "quiet\tro", "quiet\rro",
	} {
		for _, kind := range []string{Dracut, InitramfsTools} {
			line := stockLine + " rd.shell=0 rd.emergency=poweroff "
			if kind == InitramfsTools {
				line = stockLine + " "
			}
			if c, _ := code.Of(CheckStockCommandLine(line+w, kind, "root")); c != code.BootOverride {
				t.Errorf("%s: %q gives %q", kind, w, c)
			}
		}
	}
}

// In a bundle: init's rules, or those of a distribution, and no mixture.
func TestBundleCommandLine(t *testing.T) {
	for line, ok := range map[string]bool{
		goodLine:  true,
		stockLine: true, // root=/dev/mapper/root
		stockLine + " rd.shell=0 rd.emergency=poweroff":                         true,
		stockLine + " init=/bin/sh":                                             false,
		stockLine + " rd.break":                                                 false,
		stockLine + " attestbox.net=none":                                       false,
		strings.Replace(stockLine, "/dev/mapper/root", "/dev/vda", 1):           false,
		strings.Replace(stockLine, "/dev/mapper/root", "/dev/mapper/../vda", 1): false,
		strings.Replace(stockLine, "init_on_free=1", "", 1):                     false,
		"": false,
	} {
		if err := CheckBundleCommandLine(line); (err == nil) != ok {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// Whatever is accepted is words of the lists, and means the same to everybody.
func FuzzStockCommandLine(f *testing.F) {
	f.Add(stockLine+" rd.shell=0 rd.emergency=poweroff console=ttyS0", Dracut)
	f.Add(stockLine+` console="a b"`, InitramfsTools)
	f.Add(stockLine+" a\rb", InitramfsTools)
	f.Fuzz(func(t *testing.T, line, kind string) {
		if CheckStockCommandLine(line, kind, "root") != nil {
			return
		}
		if strings.ContainsAny(line, "\"'\\$`;*?") {
			t.Errorf("accepted: %q", line)
		}
		ours, err := splitWords(line)
		if err != nil || strings.Join(ours, " ") != strings.Join(strings.Fields(line), " ") {
			t.Errorf("%q splits in two ways: %v", line, err)
		}
	})
}
