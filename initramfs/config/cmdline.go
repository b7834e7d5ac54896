package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"attestbox/internal/code"
)

// Required are the words that a production image's kernel command line must
// hold (DESIGN section 10). Each may stand there more than once, but never with
// another value.
var Required = []string{"init_on_free=1", "sysctl.kernel.sysrq=0", "panic=1", "noresume"}

// Recommended is what mkimage adds beside Required; init checks its value only
// where it is present. All but the first are for a real system with systemd,
// which would take credentials, options and partitions from the host.
var Recommended = []string{"rng_core.default_quality=0", "systemd.import_credentials=no", "systemd.gpt_auto=no", "efi=noruntime"}

// firmwareWord is what OVMF puts in front of the line that was measured: its own
// name for the initramfs, which the kernel hashes cover.
const firmwareWord = "initrd=initrd"

// Log levels of attestbox.loglevel.
const (
	LogError = "error" // failures only
	LogInfo  = "info"  // the default: a line per step
	LogDebug = "debug" // and what each step tries
)

// Overrides is what the command line may change.
type Overrides struct {
	Network  *Network // nil: as the file says
	LogLevel string   // one of the Log constants
}

// Errors of CheckCommandLine; their codes are boot-override and boot-parameter.
var (
	ErrOverride = errors.New("the kernel command line says something that only the measured configuration may say")
	ErrMissing  = errors.New("the kernel command line lacks a required parameter")
)

// forbidden names would choose another root, another init, another key, a
// resume image or a shell. init itself reads none of them; software of the
// system that is started later would, and a reader would believe them.
var forbidden = []string{
	"init", "rdinit", "initrd", "root", "rootflags", "rootfstype", "rootdelay", "rootwait", "resume", "resume_offset",
	"cryptdevice", "cryptopts", "cryptkey", "crypttab", "luks", "sysrq_always_enabled", "magic_sysrq",
	"single", "s", "1", "emergency", "rescue", "break",
	"systemd.debug_shell", "systemd.unit", "systemd.run", "systemd.mask", "systemd.wants", "systemd.setenv",
	"systemd.set_credential", "systemd.set_credential_binary",
}

// forbiddenPrefixes are families of the same.
var forbiddenPrefixes = []string{"rd.", "luks.", "systemd.run_"}

// CheckCommandLine judges a kernel command line. Only attestbox.net and
// attestbox.loglevel may override anything:
//
//	attestbox.net=none
//	attestbox.net=dhcp[,dev=IFACE][,dns=ADDRESS]...
//	attestbox.net=ADDRESS/PREFIX[,gw=ADDRESS][,dns=ADDRESS]...[,dev=IFACE]
//	attestbox.loglevel=error|info|debug
func CheckCommandLine(line string) (*Overrides, error) {
	o := &Overrides{LogLevel: LogInfo}
	words, err := splitWords(line)
	if err != nil {
		return nil, code.Wrap(code.BootOverride, fmt.Errorf("%w: %v", ErrOverride, err))
	}
	seen := map[string]bool{}
	for _, w := range words {
		if err := o.word(w, seen); err != nil {
			return nil, code.Wrap(code.BootOverride, fmt.Errorf("%w: %w", ErrOverride, err))
		}
	}
	for _, r := range Required {
		if !slices.Contains(words, r) {
			return nil, code.Wrap(code.BootParameter, fmt.Errorf("%w: %s", ErrMissing, r))
		}
	}
	return o, nil
}

func (o *Overrides) word(w string, seen map[string]bool) error {
	if w == "--" {
		// The kernel reads nothing behind it, so a required word there is none.
		return fmt.Errorf("%q, which hides the words behind it from the kernel", w)
	}
	if w == firmwareWord {
		return nil
	}
	name, value, _ := strings.Cut(w, "=")
	// The kernel takes - and _ for the same in names, and so do we.
	canon := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	if strings.HasPrefix(canon, "attestbox") || strings.HasPrefix(canon, "snp_sim") {
		if seen[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		seen[name] = true
		switch name {
		case "attestbox.net":
			n, err := parseNet(value)
			if err != nil {
				return fmt.Errorf("%q: %w", w, err)
			}
			o.Network = n
			return nil
		case "attestbox.loglevel":
			if value != LogError && value != LogInfo && value != LogDebug {
				return fmt.Errorf("%q: level is %s, %s or %s", w, LogError, LogInfo, LogDebug)
			}
			o.LogLevel = value
			return nil
		}
		return fmt.Errorf("%q", w)
	}
	if slices.Contains(forbidden, canon) {
		return fmt.Errorf("%q", w)
	}
	for _, p := range forbiddenPrefixes {
		if strings.HasPrefix(canon, p) {
			return fmt.Errorf("%q", w)
		}
	}
	// The kernel puts NAME=VALUE that it does not know into our environment,
	// and Go's runtime reads GODEBUG and its like from there.
	if len(name) > 2 && strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "LD_") {
		return fmt.Errorf("%q", w)
	}
	if strings.HasPrefix(canon, "sysctl") {
		canon = strings.ReplaceAll(canon, "/", ".") // the same to the kernel
	}
	for _, r := range slices.Concat(Required, Recommended) {
		if want, _, _ := strings.Cut(r, "="); canon == want && w != r {
			return fmt.Errorf("%q, want %s", w, r)
		}
	}
	return nil
}

// splitWords splits as the kernel does: at white space outside double quotes,
// and drops the quotes around a word or a value (lib/cmdline.c, next_arg).
// Quotes anywhere else, which the kernel would keep, are an error.
func splitWords(line string) ([]string, error) {
	var words []string
	start, quoted := -1, false
	end := func(i int) error {
		if start < 0 {
			return nil
		}
		w, err := unquote(line[start:i])
		words, start = append(words, w), -1
		return err
	}
	for i := range len(line) {
		b := line[i]
		switch {
		case !quoted && strings.IndexByte(" \t\n\r", b) >= 0:
			if err := end(i); err != nil {
				return nil, err
			}
			continue
		case b < 0x20 || b >= 0x7F:
			return nil, fmt.Errorf("byte 0x%02x is not printable ASCII", b)
		case b == '"':
			quoted = !quoted
		}
		if start < 0 {
			start = i
		}
	}
	if quoted {
		return nil, errors.New("a double quote is not closed")
	}
	return words, end(len(line))
}

func unquote(w string) (string, error) {
	if strings.Count(w, `"`) == 0 {
		return w, nil
	}
	name, value, isPair := strings.Cut(w, "=")
	switch {
	case strings.Count(w, `"`) != 2 || !strings.HasSuffix(w, `"`):
	case w[0] == '"' && len(w) >= 2:
		return w[1 : len(w)-1], nil
	case isPair && strings.HasPrefix(value, `"`) && len(value) >= 2:
		return name + "=" + value[1:len(value)-1], nil
	}
	return "", fmt.Errorf("%.80q has quotes inside", w)
}

func parseNet(s string) (*Network, error) {
	parts := strings.Split(s, ",")
	n := &Network{}
	switch {
	case parts[0] == DHCP || parts[0] == None:
		n.Method = parts[0]
	default:
		n.Method, n.Address = Static, parts[0]
	}
	for _, p := range parts[1:] {
		key, value, _ := strings.Cut(p, "=")
		switch {
		case value == "":
			return nil, fmt.Errorf("%.40q is not KEY=VALUE", p)
		case key == "dev" && n.Interface == "":
			n.Interface = value
		case key == "gw" && n.Gateway == "":
			n.Gateway = value
		case key == "dns":
			n.DNS = append(n.DNS, value)
		default:
			return nil, fmt.Errorf("%.40q is unknown or given twice", p)
		}
	}
	return n, n.check()
}
