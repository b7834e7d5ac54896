package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"attestbox/internal/code"
	"attestbox/internal/form"
)

// Keyscript is what crypttab's line names; the line is known by it.
const Keyscript = "/usr/lib/attestbox/keyscript"

// Crypttab is the one line of /etc/crypttab that is ours (crypttab(5)):
//
//	NAME DEVICE none luks,header=/run/attestbox/NAME.hdr,tries=1,keyscript=/usr/lib/attestbox/keyscript
type Crypttab struct {
	Name   string // of the mapping, /dev/mapper/NAME
	Device string // the kernel's name, /dev/vda2
}

// mappingForm leaves out what crypttab, device-mapper or udev would mangle.
func mappingForm(s string) bool { return len(s) <= 32 && form.Word(s, small, form.Chars("a-z0-9_")) }

// Header is where the validated header lies.
func (c *Crypttab) Header() string { return "/run/attestbox/" + c.Name + ".hdr" }

// Line is the entry as the initramfs gets it.
func (c *Crypttab) Line() string {
	return c.Name + " " + c.Device + " none " + strings.Join(c.options(), ",") + "\n"
}

func (c *Crypttab) options() []string {
	return []string{"luks", "header=" + c.Header(), "tries=1", "keyscript=" + Keyscript}
}

// ParseCrypttab finds the line whose keyscript is ours. It has to be the only
// one, with exactly the options of Line, in any order, and "initramfs" if one
// likes: each other one would change what is opened, or how often it is asked
// for. Every error has the code config-bad.
func ParseCrypttab(data []byte) (*Crypttab, error) {
	c, err := parseCrypttab(string(data))
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, err)
	}
	return c, nil
}

func parseCrypttab(data string) (*Crypttab, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), MaxSize)
	}
	var found *Crypttab
	for line := range strings.Lines(data) {
		f := strings.FieldsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(f) == 0 || strings.HasPrefix(f[0], "#") || !strings.Contains(line, Keyscript) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("more than one line with keyscript=%s", Keyscript)
		}
		var err error
		if found, err = parseEntry(f); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no line with keyscript=%s", Keyscript)
	}
	return found, nil
}

func parseEntry(f []string) (*Crypttab, error) {
	if len(f) != 4 {
		return nil, fmt.Errorf("the line has %d fields, want 4: NAME DEVICE none OPTIONS", len(f))
	}
	c := &Crypttab{Name: f[0], Device: f[1]}
	switch {
	case !mappingForm(c.Name) || c.Name == "control":
		return nil, fmt.Errorf("name %.40q: want a lower-case letter, then letters, digits and _, 32 in all", c.Name)
	case !deviceForm(c.Device):
		return nil, fmt.Errorf("device %.60q is not a kernel device such as /dev/vda or /dev/nvme0n1p2", c.Device)
	case f[2] != "none":
		return nil, fmt.Errorf("third field is %.40q, want none", f[2])
	}
	given := strings.Split(f[3], ",")
	for _, o := range c.options() {
		if !slices.Contains(given, o) {
			return nil, fmt.Errorf("option %s is missing", o)
		}
	}
	for i, o := range given {
		if o != "initramfs" && !slices.Contains(c.options(), o) {
			return nil, fmt.Errorf("option %.60q is not one for this volume", o)
		}
		if slices.Contains(given[:i], o) {
			return nil, errors.New("an option is there twice")
		}
	}
	return c, nil
}
