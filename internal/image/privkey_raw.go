package image

import (
	"fmt"
	"path/filepath"
	"strings"
)

// findRaw refuses what raw keys look like: exactly 32 or 64 bytes that look
// random, as disk keys, seal keys and a simulated chip's secret are, or a small
// binary file that calls itself a key. It is a guess, and it errs on the safe
// side: a public value of that size can be given as hex or PEM instead.
func findRaw(name string, data []byte) string {
	if len(data) < 16 || len(data) > 4096 || !looksRandom(data) {
		return ""
	}
	if len(data) == 32 || len(data) == 64 {
		return fmt.Sprintf("is %d bytes that look random, as a disk's key or a seal key does (a public value goes in as hex or PEM)", len(data))
	}
	base := strings.ToLower(filepath.Base(name))
	for _, end := range []string{".key", ".secret", "-key", "_key"} {
		if strings.HasSuffix(base, end) {
			return "is binary, looks random and calls itself a key"
		}
	}
	return ""
}

// looksRandom says that there are bytes that are no text, and as many different
// ones as random bytes have, all but certainly: 32 random bytes have 30.1
// different values on average, and fewer than 24 once in 10^6.
func looksRandom(data []byte) bool {
	data = data[:min(len(data), 64)]
	var seen [256]bool
	distinct, text := 0, true
	for _, c := range data {
		if !seen[c] {
			seen[c] = true
			distinct++
		}
		if (c < ' ' || c > '~') && c != '\n' && c != '\r' && c != '\t' {
			text = false
		}
	}
	return !text && distinct >= len(data)*2/3
}
