package attestd

import (
	"testing"

	"attestbox/internal/form/formtest"
)

func TestContextForm(t *testing.T) {
	formtest.Same(t, `^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`, MaxContext, ValidContext)
}
