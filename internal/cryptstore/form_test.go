package cryptstore

import (
	"testing"

	"attestbox/internal/form/formtest"
)

func TestNameForms(t *testing.T) {
	formtest.Same(t, `^[a-z0-9][a-z0-9._-]*$`, MaxName, func(s string) bool { return CheckName(s) == nil })
	formtest.Same(t, `^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`, MaxTag, func(s string) bool { return CheckTag(s) == nil })
	formtest.Same(t, `^[a-z0-9][a-z0-9-]{0,31}$`, 32, kindForm)
}
