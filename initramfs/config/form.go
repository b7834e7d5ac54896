package config

import (
	"strings"

	"attestbox/internal/form"
)

var (
	small = form.Chars("a-z")
	alnum = form.Chars("A-Za-z0-9")
)

// deviceForm is ^/dev/[a-z][a-z0-9]{1,31}$, a kernel block device: no folders
// below /dev, since nothing but devtmpfs makes nodes at this point, and links
// there could be anything.
func deviceForm(s string) bool {
	name, ok := strings.CutPrefix(s, "/dev/")
	return ok && len(name) >= 2 && len(name) <= 32 && form.Word(name, small, form.Chars("a-z0-9"))
}

// nameForm is ^[a-z][a-z0-9_-]{0,31}$.
func nameForm(s string) bool { return len(s) <= 32 && form.Word(s, small, form.Chars("a-z0-9_-")) }

// ifaceForm is ^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$.
func ifaceForm(s string) bool { return len(s) <= 15 && form.Word(s, alnum, form.Chars("a-zA-Z0-9_.-")) }

// optionForm is ^[a-z][a-z0-9_]*(=[A-Za-z0-9_.:%/-]+)?$, 80 bytes at most.
func optionForm(s string) bool {
	name, value, given := strings.Cut(s, "=")
	return len(s) <= 80 && form.Word(name, small, form.Chars("a-z0-9_")) &&
		(!given || value != "" && form.Chars("A-Za-z0-9_.:%/-").All(value))
}

// sizeForm is ^[1-9][0-9]{0,6}[KMG]$.
func sizeForm(s string) bool {
	return len(s) >= 2 && len(s) <= 8 && form.Word(s[:len(s)-1], form.Chars("1-9"), form.Chars("0-9")) &&
		form.Chars("KMG").Has(s[len(s)-1])
}

// hostForm is ^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$.
func hostForm(s string) bool {
	return len(s) <= 254 && form.Bounded(s, alnum, form.Chars("A-Za-z0-9.-"))
}
