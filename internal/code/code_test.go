package code

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

func TestInnermostCodeWins(t *testing.T) {
	err := fmt.Errorf("boot: %w", Wrap(Failed, fmt.Errorf("step: %w", Wrap(IDZero, errors.New("x")))))
	if c, ok := Of(err); !ok || c != IDZero {
		t.Errorf("Of = %q, %v; want %q", c, ok, IDZero)
	}
	if _, ok := Of(errors.New("plain")); ok {
		t.Error("a plain error has a code")
	}
	if Wrap(Failed, nil) != nil {
		t.Error("Wrap(nil) is an error")
	}
}

func TestCodesAreWellFormed(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, c := range All() {
		if !form.MatchString(string(c)) {
			t.Errorf("code %q is not lower case with hyphens", c)
		}
		if m, _ := Meaning(c); m == "" {
			t.Errorf("code %q has no meaning", c)
		}
	}
}
