//go:build guest

package applets

import (
	"attestbox/applets/attestd"
	bootbundle "attestbox/applets/boot-bundle"
	bootdebian "attestbox/applets/boot-debian"
	"attestbox/applets/certify"
	cryptstoreapplet "attestbox/applets/cryptstore"
	fetchsecret "attestbox/applets/fetch-secret"
	initapplet "attestbox/applets/init"
	"attestbox/applets/nominate"
	"attestbox/applets/tunnel"
	unlockluks "attestbox/applets/unlock-luks"
	"attestbox/internal/applet"
)

// What goes into an image: no server, no owner's tool, no simulation.
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
	}
}
