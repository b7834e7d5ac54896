package snpsim

import (
	"attestbox/internal/applet"
)

// parseVsock sets up the vsock device that -vsock-forward asks for.
func (f *runFlags) parseVsock(fs *applet.FlagSet, l *launch) error {
	if len(f.forwards) > 0 {
		return fs.Usage("-vsock-forward is not available yet")
	}
	return nil
}
