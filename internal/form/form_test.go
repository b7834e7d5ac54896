package form_test

import (
	"regexp"
	"testing"

	"attestbox/internal/form"
	"attestbox/internal/form/formtest"
)

const limit = 100

func within(f func(string) bool) func(string) bool {
	return func(s string) bool { return len(s) <= limit && f(s) }
}

var forms = map[string]func(string) bool{
	`^[a-z0-9]+(-[a-z0-9]+)*$`:         form.Hyphenated,
	`^[a-zA-Z0-9]*$`:                   form.Chars("a-zA-Z0-9").All,
	`^[a-z][a-z0-9_-]*$`:               func(s string) bool { return form.Word(s, form.Chars("a-z"), form.Chars("a-z0-9_-")) },
	`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`: func(s string) bool { return form.Bounded(s, form.Chars("a-z0-9"), form.Chars("a-z0-9.-")) },
	`^[A-Z0-9_][a.-]*(/[A-Z0-9_][a.-]*)*$`: func(s string) bool {
		return form.Words(s, "/", form.Chars("A-Z0-9_"), form.Chars("a.-"))
	},
}

func TestForms(t *testing.T) {
	for expression, f := range forms {
		formtest.Same(t, expression, limit, within(f))
	}
}

func TestChars(t *testing.T) {
	for spec, want := range map[string]string{
		"a-c": "abc", "a-c-": "abc-", "-": "-", "-a": "-a", "a.-": "a.-", "._:/@-": "._:/@-", "0-2x-z_": "012xyz_", "": "",
	} {
		s := form.Chars(spec)
		got := map[byte]bool{}
		for c := range 256 {
			if s.Has(byte(c)) {
				got[byte(c)] = true
			}
		}
		for i := range len(want) {
			if !got[want[i]] {
				t.Errorf("%q lacks %q", spec, want[i])
			}
		}
		if len(got) != len(want) {
			t.Errorf("%q has %d characters, want %d", spec, len(got), len(want))
		}
	}
}

func FuzzForms(f *testing.F) {
	for _, s := range []string{"", "a", "a-b", "a--b", "A/a.", "a.b", "-", "é", "a\n"} {
		f.Add(s)
	}
	expressions := map[*regexp.Regexp]func(string) bool{}
	for e, fn := range forms {
		expressions[regexp.MustCompile(e)] = fn
	}
	f.Fuzz(func(t *testing.T, s string) {
		for re, fn := range expressions {
			if got, want := fn(s), re.MatchString(s); got != want {
				t.Errorf("%s: %q: got %v, want %v", re, s, got, want)
			}
		}
	})
}
