package store

import (
	"testing"

	"attestbox/internal/form/formtest"
)

func TestKeyForm(t *testing.T) {
	formtest.Same(t, `^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$`, MaxKey, func(s string) bool { return CheckKey(s) == nil })
}
