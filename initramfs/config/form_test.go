package config

import (
	"testing"

	"attestbox/internal/form/formtest"
)

func TestForms(t *testing.T) {
	formtest.Same(t, `^/dev/[a-z][a-z0-9]{1,31}$`, 300, deviceForm)
	formtest.Same(t, `^[a-z][a-z0-9_-]{0,31}$`, 300, nameForm)
	formtest.Same(t, `^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`, 300, ifaceForm)
	formtest.Same(t, `^[a-z][a-z0-9_]*(=[A-Za-z0-9_.:%/-]+)?$`, 80, optionForm)
	formtest.Same(t, `^[1-9][0-9]{0,6}[KMG]$`, 300, sizeForm)
	formtest.Same(t, `^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$`, 300, hostForm)
}
