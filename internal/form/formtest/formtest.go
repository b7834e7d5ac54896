// Package formtest compares a check of form with the regular expression that it
// stands for.
package formtest

import (
	"regexp"
	"strings"
	"testing"
)

// letters has one character or two of each kind that forms tell apart.
const letters = "aZ0_.-/=@\n"

// Same requires got to agree with the expression: on every string of up to five
// of letters, on every byte at the beginning, within and at the end of a word, at
// lengths up to limit and beyond, and on some of more than ASCII.
func Same(t *testing.T, expression string, limit int, got func(string) bool) {
	t.Helper()
	re := regexp.MustCompile(expression)
	accepted, wrong := 0, 0
	check := func(s string) {
		want := re.MatchString(s) && len(s) <= limit
		if want {
			accepted++
		}
		if g := got(s); g != want && wrong < 10 {
			wrong++
			t.Errorf("%s: %.100q of %d bytes: got %v, want %v", expression, s, len(s), g, want)
		}
	}
	var all func(prefix string, left int)
	all = func(prefix string, left int) {
		check(prefix)
		for i := 0; left > 0 && i < len(letters); i++ {
			all(prefix+letters[i:i+1], left-1)
		}
	}
	for _, prefix := range []string{"", "/dev/", "1"} {
		all(prefix, 5-min(len(prefix), 2))
	}
	for b := range 256 {
		c := string([]byte{byte(b)})
		for _, s := range []string{c, c + "a", "a" + c, "a" + c + "a", "a=" + c, "a/" + c, "/dev/a" + c, "/dev/" + c + "a", "1" + c, "1" + c + "K", "a" + c + c + "a"} {
			check(s)
		}
	}
	for _, word := range []string{"a", "0", "a-", "a.", "a/"} {
		for n := range max(limit, 64) + 3 {
			s := strings.Repeat(word, n/len(word)+1)[:n]
			check(s)
			check("/dev/" + s)
			check("1" + strings.Repeat("0", n) + "M")
		}
	}
	for _, s := range []string{"é", "aé", "ａ", "a\u0130", "\u212a", "a\u2028", "a\xc0\xaf", "a\x00", "abc", "10K", "9999999G", "a=b", "a=b=c", "ro,noexec"} {
		check(s)
	}
	if accepted == 0 {
		t.Errorf("%s: nothing was accepted", expression)
	}
}
