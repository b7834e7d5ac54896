package fetchsecret

import (
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/launchcfg"
)

// clientConfig merges flags over the configuration file. As a keyscript the
// key field of crypttab may name the file; "none" and "-" mean the default.
func (o *options) clientConfig(env *applet.Env, crypttab bool, field string) (client.Config, time.Duration, error) {
	path := o.config
	if crypttab && path == "" && strings.HasPrefix(field, "/") {
		path = field
	}
	var file launchcfg.File
	var err error
	if path != "" || len(o.servers) == 0 || len(o.pins) == 0 && !o.policyGiven {
		if file, err = launchcfg.Read(path); err != nil {
			return client.Config{}, 0, err
		}
	}
	if o.policyGiven {
		file.Policy = o.member.PolicyCert
	}
	if len(o.servers) > 0 {
		file.Servers = o.servers
	}
	if len(o.pins) > 0 {
		if file.Pins, err = launchcfg.Pins(o.pins); err != nil {
			return client.Config{}, 0, err
		}
	}
	cfg, err := file.Client()
	if err != nil {
		return client.Config{}, 0, err
	}
	timeout := o.timeout
	if timeout <= 0 {
		timeout = time.Duration(file.Timeout)
	}
	if timeout <= 0 {
		timeout = launchcfg.DefaultTimeout
	}
	return cfg, timeout, nil
}
