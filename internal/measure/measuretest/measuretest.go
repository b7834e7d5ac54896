// Package measuretest makes random launches: command lines of `mkimage measure`
// that the public tool sev-snp-measure takes as well, and their files. A case
// is a function of its seed and number alone. Not for a program's own use.
package measuretest

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"

	"attestbox/internal/measure"
)

// Case is one launch. The arguments name the files without a folder.
type Case struct {
	Args  []string
	Files map[string][]byte
}

// New is case number i of a seed.
func New(seed, i uint64) *Case {
	g := &generator{rand.New(rand.NewPCG(seed, i)), &Case{Files: map[string][]byte{}}}
	g.launch()
	return g.c
}

type generator struct {
	*rand.Rand
	c *Case
}

// often is true in p of 100 cases.
func (g *generator) often(p int) bool { return g.IntN(100) < p }

func (g *generator) add(args ...string) { g.c.Args = append(g.c.Args, args...) }

// flag writes a flag in one of its spellings.
func (g *generator) flag(name, value string) {
	switch g.IntN(2) {
	case 0:
		g.add("--" + name + "=" + value)
	default:
		if strings.HasPrefix(value, "-") {
			g.add("--" + name + "=" + value)
			return
		}
		g.add("--"+name, value)
	}
}

func (g *generator) file(name string, data []byte) string {
	g.c.Files[name] = data
	return name
}

func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) launch() {
	mode := pick(g, "snp", "snp", "snp", "snp", "snp", "snp", "seves", "seves", "sev", "snp:svsm", "snp:ovmf-hash")
	g.flag("mode", mode)
	g.flag("output-format", pick(g, "hex", "hex", "base64"))
	img := g.image(mode == "snp:svsm")
	g.flag("ovmf", g.file("ovmf.fd", g.firmware(img, 1+g.IntN(12))))
	if mode == "snp:ovmf-hash" {
		g.c.Args = g.c.Args[:0] // the public tool prints that in hex always
		g.flag("mode", mode)
		g.flag("ovmf", "ovmf.fd")
		return
	}
	if mode != "snp:svsm" && g.often(75) || g.often(3) {
		g.kernel()
	}
	g.vcpus(mode)
	switch mode {
	case "snp":
		if g.often(60) {
			g.flag("guest-features", pick(g, "0x1", "0x21", "1", "33", "0x201", fmt.Sprintf("%#x", g.Uint64()|1), fmt.Sprintf("%#x", g.Uint32()|1), "0x20"))
		}
		if g.often(12) {
			g.flag("snp-ovmf-hash", hex.EncodeToString(g.bytes(48)))
		}
	case "snp:svsm":
		g.svsm()
	}
	if mode != "sev" && g.often(10) {
		g.add("--dump-vmsa")
	}
}

// vcpus says how many start, how, and by whom.
func (g *generator) vcpus(mode string) {
	n := pick(g, 1, 1, 2, 3, 4, 8, 1+g.IntN(64), 1+g.IntN(512))
	if g.often(2) {
		n = 0
	}
	g.flag("vcpus", fmt.Sprint(n))
	vmm := "QEMU"
	if mode != "snp:svsm" && g.often(30) {
		vmm = pick(g, "ec2", "gce")
	}
	if vmm != "QEMU" || g.often(30) {
		g.flag("vmm-type", vmm)
	}
	if mode == "sev" || vmm != "QEMU" && g.often(50) {
		return
	}
	switch g.IntN(3) {
	case 0:
		g.flag("vcpu-type", pick(g, "EPYC", "EPYC-IBPB", "EPYC-v1", "EPYC-v2", "EPYC-v3", "EPYC-v4", "EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2",
			"EPYC-Rome-v3", "EPYC-Milan", "EPYC-Milan-v1", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Genoa-v1", "EPYC-Turin", "EPYC-Zen9"))
	case 1:
		g.flag("vcpu-sig", pick(g, "0x800f12", "0xa00f11", "10489617", fmt.Sprintf("%#x", g.Uint32()|1)))
	default:
		g.flag("vcpu-family", fmt.Sprint(pick(g, 23, 25, 26, 1+g.IntN(255))))
		g.flag("vcpu-model", fmt.Sprint(g.IntN(256)))
		g.flag("vcpu-stepping", fmt.Sprint(g.IntN(16)))
	}
}

// kernel adds a kernel, mostly with initramfs and command line.
func (g *generator) kernel() {
	data := func() []byte {
		return g.bytes(pick(g, 0, 1, 63, 64, 4096, g.IntN(200_000)))
	}
	g.flag("kernel", g.file("vmlinuz", data()))
	if g.often(85) {
		g.flag("initrd", g.file("initrd.img", data()))
	}
	if g.often(90) {
		g.flag("append", g.cmdline())
	}
}

func (g *generator) cmdline() string {
	base := pick(g, "console=ttyS0", "root=/dev/vda1 ro quiet", "console=ttyS0 loglevel=7 attestbox.server=10.0.2.2:7443")
	return pick(g, base, base, "", " ", base+"\n", base+" ", " "+base, "-"+base, base+"\t"+base, "a=\"b c\" d='e'", "größe=日本", strings.Repeat("x", 1+g.IntN(5000)),
		strings.ReplaceAll(base, " ", "  "), base+"\r\n", "%s %d $HOME `id`", base+"\\n", "=")
}

// svsm adds an SVSM image and its variable store.
func (g *generator) svsm() {
	img := &measure.Image{HasFooter: true, HasMetadata: !g.often(3), HasLaunchOffset: !g.often(3), LaunchOffset: uint32(g.IntN(4096))}
	img.Sections = g.sections(false)
	g.flag("svsm", g.file("svsm.bin", g.firmware(img, 1+g.IntN(6))))
	vars := 4096 * (1 + g.IntN(20))
	if g.often(3) {
		vars += 1 + g.IntN(4095)
	}
	if g.often(50) {
		g.flag("vars-size", fmt.Sprint(vars))
	} else {
		g.flag("vars-file", g.file("vars.fd", make([]byte, vars)))
	}
}
