// Package form checks the form of names: which characters they may have, and
// where. Tests beside each use hold it together with the regular expression that
// it stands for (formtest); regexp itself, with Unicode's tables 240 KB of the
// guest binary, stays out. ASCII alone: any other byte has no form.
package form

import "strings"

// Set is a set of ASCII characters.
type Set [2]uint64

// Chars is the set that the inside of a regular expression's brackets describes:
// characters and ranges; a hyphen at the end stands for itself.
func Chars(spec string) Set {
	var s Set
	for i := 0; i < len(spec); i++ {
		last := spec[i]
		if i+2 < len(spec) && spec[i+1] == '-' {
			last = spec[i+2]
		}
		for c := spec[i]; c <= last; c++ {
			s[c>>6] |= 1 << (c & 63)
		}
		if last != spec[i] {
			i += 2
		}
	}
	return s
}

// Has says whether c is in the set.
func (s Set) Has(c byte) bool { return c < 128 && s[c>>6]>>(c&63)&1 == 1 }

// All says whether every byte of text is in the set; an empty text has none.
func (s Set) All(text string) bool {
	for i := range len(text) {
		if !s.Has(text[i]) {
			return false
		}
	}
	return true
}

// Word is [first][rest]*.
func Word(text string, first, rest Set) bool {
	return text != "" && first.Has(text[0]) && rest.All(text[1:])
}

// Words is words joined by single separators.
func Words(text, sep string, first, rest Set) bool {
	for w := range strings.SplitSeq(text, sep) {
		if !Word(w, first, rest) {
			return false
		}
	}
	return true
}

// Bounded is [ends]([within]*[ends])?.
func Bounded(text string, ends, within Set) bool {
	return Word(text, ends, within) && ends.Has(text[len(text)-1])
}

// Hyphenated is lower-case letters and digits, with single hyphens within.
func Hyphenated(text string) bool { return Words(text, "-", lower, lower) }

var lower = Chars("a-z0-9")
