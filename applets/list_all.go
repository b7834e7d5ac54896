//go:build !guest && !simdevice

package applets

import (
	"attestbox/applets/attestd"
	bootbundle "attestbox/applets/boot-bundle"
	bootdebian "attestbox/applets/boot-debian"
	"attestbox/applets/certify"
	cryptstoreapplet "attestbox/applets/cryptstore"
	"attestbox/applets/explain"
	fetchsecret "attestbox/applets/fetch-secret"
	initapplet "attestbox/applets/init"
	keyserver "attestbox/applets/key-server"
	"attestbox/applets/nominate"
	"attestbox/applets/policy"
	policyserver "attestbox/applets/policy-server"
	"attestbox/applets/server"
	snpsim "attestbox/applets/snp-sim"
	"attestbox/applets/tunnel"
	unlockluks "attestbox/applets/unlock-luks"
	"attestbox/applets/verifier"
	"attestbox/internal/applet"
)

// The default build sees everything but the simulated device, which is a
// binary of its own.
func list() []applet.Applet {
	return []applet.Applet{
		initapplet.Applet,
		bootbundle.Applet,
		bootdebian.Applet,
		fetchsecret.Applet,
		unlockluks.Applet,
		cryptstoreapplet.Applet,
		certify.Applet,
		nominate.Applet,
		tunnel.Applet,
		attestd.Applet,
		attestd.Client,
		verifier.Applet,
		server.Applet,
		policyserver.Applet,
		keyserver.Applet,
		policy.Applet,
		snpsim.Applet,
		explain.Applet,
	}
}
