// Package imagetest makes small stand-ins for what goes into an image: a
// bzImage that names a release, module files with a .modinfo section, a static
// program. They are for tests only; none of them runs.
package imagetest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Release is the kernel release of Inputs.
const Release = "6.12.99-test-amd64"

// InitJSON is a configuration that init accepts.
const InitJSON = `{"mode":"switch-root","servers":["tcp://192.0.2.1:8451"],` +
	`"pins":["sha256:1111111111111111111111111111111111111111111111111111111111111111"],` +
	`"network":{"method":"dhcp"},"root":{"device":"/dev/vda","name":"root","fstype":"ext4"}}`

// Kernel is a file with a bzImage's setup header that names the release.
func Kernel(release string) []byte {
	b := make([]byte, 4096)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x300-0x200)
	copy(b[0x300:], release+" (build@host) #1 SMP\x00")
	return b
}

// Program is a static ELF program for x86-64, or a dynamic one.
func Program(dynamic bool) []byte {
	const hdr, ph = 64, 56
	var out bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: hdr, Ehsize: hdr, Phentsize: ph, Phnum: 1, Shentsize: 64}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	p := elf.Prog64{Type: uint32(elf.PT_LOAD)}
	if dynamic {
		p.Type = uint32(elf.PT_INTERP)
	}
	binary.Write(&out, binary.LittleEndian, h)
	binary.Write(&out, binary.LittleEndian, p)
	return out.Bytes()
}

// Module is a relocatable ELF file whose .modinfo section holds these
// key=value strings.
func Module(info ...string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	text := strings.Join(info, "\x00") + "\x00"
	const hdr = 64
	textAt, namesAt := hdr, hdr+len(text)
	shoff := (namesAt + len(names) + 7) &^ 7
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(shoff), Ehsize: hdr, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, h)
	out.WriteString(text)
	out.WriteString(names)
	out.Write(make([]byte, shoff-out.Len()))
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(textAt), Size: uint64(len(text))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(namesAt), Size: uint64(len(names))},
	} {
		binary.Write(&out, binary.LittleEndian, s)
	}
	return out.Bytes()
}

// modules of Inputs, with what they depend on, like those of a 6.12 kernel.
var modules = map[string]string{
	"drivers/virtio/virtio_pci":             "virtio_ring",
	"drivers/virtio/virtio_ring":            "",
	"drivers/block/virtio_blk":              "virtio_ring",
	"drivers/net/virtio_net":                "net_failover",
	"drivers/net/net_failover":              "failover",
	"net/core/failover":                     "",
	"drivers/md/dm-mod":                     "",
	"drivers/md/dm-crypt":                   "dm-mod",
	"drivers/md/dm-integrity":               "dm-mod,dm-bufio",
	"drivers/md/dm-bufio":                   "dm-mod",
	"drivers/md/dm-verity":                  "reed_solomon,dm-mod,dm-bufio",
	"lib/reed_solomon/reed_solomon":         "",
	"crypto/authenc":                        "",
	"crypto/xts":                            "",
	"crypto/ecb":                            "",
	"drivers/virt/coco/tsm":                 "configfs",
	"fs/configfs/configfs":                  "",
	"drivers/virt/coco/sev-guest/sev-guest": "tsm",
	"drivers/char/virtio_console":           "virtio_ring",
	"drivers/char/hw_random/virtio-rng":     "",
	"drivers/firmware/qemu_fw_cfg":          "",
	"fs/fuse/fuse":                          "",
	"fs/fuse/cuse":                          "fuse",
	"drivers/block/needs-lost":              "lost",
}

// Inputs writes what an image is made of into dir: vmlinuz, the folder
// lib/modules/Release, guest, sim-device, busybox, init.json.
func Inputs(t testing.TB, dir string) {
	t.Helper()
	write := func(name string, mode os.FileMode, data []byte) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("vmlinuz", 0o644, Kernel(Release))
	write("guest", 0o755, append(Program(false), "guest"...))
	write("sim-device", 0o755, append(Program(false), "sim-device"...))
	write("busybox", 0o755, append(Program(false), "BusyBox v1.35.0 (Debian)"...))
	write("dynamic", 0o755, Program(true))
	write("init.json", 0o644, []byte(InitJSON))
	tree := "lib/modules/" + Release + "/"
	write(tree+"modules.builtin", 0o644, []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/aes_generic.ko\nkernel/lib/some-helper.ko\n"))
	for name, depends := range modules {
		info := []string{"license=GPL", "vermagic=" + Release + " SMP preempt mod_unload modversions ", "depends=" + depends}
		if strings.HasSuffix(name, "/xts") {
			info = append(info, "softdep=pre: ecb nosuch post: later")
		}
		write(tree+"kernel/"+name+".ko", 0o644, Module(info...))
	}
}
