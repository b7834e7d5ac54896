//go:build simdevice

package applets

import (
	snpsimdevice "attestbox/applets/snp-sim-device"
	"attestbox/internal/applet"
)

// The simulated device alone: it lies in simulator images only.
func list() []applet.Applet {
	return []applet.Applet{snpsimdevice.Applet}
}
