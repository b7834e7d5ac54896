//go:build !guest && !simdevice

package applets

import (
	"attestbox/applets/attestd"
	"attestbox/applets/certify"
	cryptstoreapplet "attestbox/applets/cryptstore"
	"attestbox/applets/explain"
	fetchsecret "attestbox/applets/fetch-secret"
	initapplet "attestbox/applets/init"
	"attestbox/applets/policy"
	snpsim "attestbox/applets/snp-sim"
	unlockluks "attestbox/applets/unlock-luks"
	"attestbox/applets/verifier"
	"attestbox/internal/applet"
)

// The default build sees everything but the simulated device, which is a
// binary of its own.
func list() []applet.Applet {
	return []applet.Applet{
		initapplet.Applet,
		fetchsecret.Applet,
		unlockluks.Applet,
		cryptstoreapplet.Applet,
		certify.Applet,
		attestd.Applet,
		attestd.Client,
		verifier.Applet,
		policy.Applet,
		snpsim.Applet,
		explain.Applet,
	}
}
