package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one module, compressed or not.
const maxModule = 64 << 20

// moduleSuffixes are the file name endings of modules; finit_module loads the
// compressed ones as they are (MODULE_INIT_COMPRESSED_FILE, Linux 5.17) where
// the kernel was built for that form.
var moduleSuffixes = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

// ModuleName is the kernel's name of a module file or of a name as people write
// it: without folder and ending, "-" as "_". False for another kind of file.
func ModuleName(file string) (string, bool) {
	base := path.Base(file)
	for _, s := range moduleSuffixes {
		if name, ok := strings.CutSuffix(base, s); ok && name != "" {
			return normal(name), true
		}
	}
	return "", false
}

func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// ModInfo is what this package reads of a module's .modinfo section.
type ModInfo struct {
	Depends  []string // needed, by name
	SoftPre  []string // wanted before, where they exist
	Firmware []string // files that its devices may want
	VerMagic string   // kernel release, then its build options
}

// ParseModInfo reads the .modinfo section of a module file, compressed as its
// name says. The section is a list of NUL-terminated key=value strings.
func ParseModInfo(name string, data []byte) (*ModInfo, error) {
	raw, err := moduleELF(name, data)
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", path.Base(name), err)
	}
	return parseModInfo(name, raw)
}

// parseModInfo is ParseModInfo of an unpacked module.
func parseModInfo(name string, raw []byte) (*ModInfo, error) {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", path.Base(name), err)
	}
	sec := f.Section(".modinfo")
	if sec == nil || sec.Type == elf.SHT_NOBITS || sec.Size > maxModule {
		return nil, fmt.Errorf("reading module %q: no .modinfo section: not a kernel module", path.Base(name))
	}
	text, err := sec.Data()
	if err != nil {
		return nil, fmt.Errorf("reading module %q: .modinfo: %w", path.Base(name), err)
	}
	info := &ModInfo{}
	for kv := range strings.SplitSeq(string(text), "\x00") {
		key, value, _ := strings.Cut(kv, "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					info.Depends = append(info.Depends, normal(d))
				}
			}
		case "softdep":
			info.SoftPre = append(info.SoftPre, softPre(value)...)
		case "firmware":
			if value != "" {
				info.Firmware = append(info.Firmware, value)
			}
		case "vermagic":
			info.VerMagic = value
		}
	}
	return info, nil
}

// softPre takes the names after "pre:" of a softdep value such as
// "pre: ecb aes post: other".
func softPre(value string) []string {
	var out []string
	in := false
	for _, w := range strings.Fields(value) {
		switch w {
		case "pre:":
			in = true
		case "post:":
			in = false
		default:
			if in {
				out = append(out, normal(w))
			}
		}
	}
	return out
}

func moduleELF(name string, data []byte) ([]byte, error) {
	var r io.Reader
	switch {
	case strings.HasSuffix(name, ".ko"):
		return data, nil
	case strings.HasSuffix(name, ".ko.xz"):
		// A least size: the file names what it needs (1 MiB, as kernels do it).
		x, err := (xz.ReaderConfig{DictCap: 1 << 16}).NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		r = x
	case strings.HasSuffix(name, ".ko.zst"):
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case strings.HasSuffix(name, ".ko.gz"):
		g, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		r = g
	default:
		return nil, errors.New("not a module file name")
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(out) > maxModule {
		err = fmt.Errorf("larger than %d bytes", maxModule)
	}
	return out, err
}
