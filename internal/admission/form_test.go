package admission

import (
	"testing"

	"attestbox/internal/form/formtest"
)

func TestDomainForm(t *testing.T) {
	formtest.Same(t, `^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`, 100, func(s string) bool { return len(s) <= 100 && labels(s) })
}
