package wire

import (
	"testing"

	"attestbox/internal/code"
	"attestbox/internal/form/formtest"
)

func TestNameForms(t *testing.T) {
	formtest.Same(t, `^[a-z0-9]+(-[a-z0-9]+)*$`, 64, func(s string) bool { return checkCode(code.Code(s)) == nil })
	formtest.Same(t, `^[a-z0-9]+(-[a-z0-9]+)*$`, 32, ValidRole)
	formtest.Same(t, `^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`, MaxDomainName, ValidDomain)
	formtest.Same(t, `^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`, MaxKeyName, ValidKeyName)
	formtest.Same(t, `^[A-Za-z0-9_][A-Za-z0-9._-]*$`, MaxSecretName, ValidSecretName)
}
