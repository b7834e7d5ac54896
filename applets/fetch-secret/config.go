package fetchsecret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// defaultConfigs are tried in order when -config is not given.
var defaultConfigs = []string{"/etc/attestbox/fetch-secret.json", "/etc/attestbox/init.json"}

const defaultTimeout = 5 * time.Minute

// fileConfig is /etc/attestbox/fetch-secret.json.
type fileConfig struct {
	Servers []string        `json:"servers"`
	Pins    []wire.Pin      `json:"pins"`
	Policy  string          `json:"policy"` // path of the domain's policy certificate
	Timeout config.Duration `json:"timeout"`
}

// clientConfig merges flags over the configuration file. As a keyscript the
// key field of crypttab may name the file; "none" and "-" mean the default.
func (o *options) clientConfig(env *applet.Env, crypttab bool, field string) (client.Config, time.Duration, error) {
	path := o.config
	if crypttab && path == "" && strings.HasPrefix(field, "/") {
		path = field
	}
	var file fileConfig
	if path != "" || len(o.servers) == 0 || len(o.pins) == 0 && !o.policyGiven {
		var err error
		if file, err = readConfig(path); err != nil {
			return client.Config{}, 0, err
		}
	}
	cfg := client.Config{Servers: file.Servers, Pins: file.Pins}
	if o.policyGiven {
		file.Policy = o.member.PolicyCert
	}
	if file.Policy != "" {
		var err error
		if cfg.Policy, err = memberflags.ReadPolicy(file.Policy); err != nil {
			return client.Config{}, 0, err
		}
	}
	if len(o.servers) > 0 {
		cfg.Servers = o.servers
	}
	if len(o.pins) > 0 {
		cfg.Pins = nil
		for _, s := range o.pins {
			var p wire.Pin
			if err := p.UnmarshalText([]byte(s)); err != nil {
				return client.Config{}, 0, applet.Usage("-pin %q: %v", s, err)
			}
			cfg.Pins = append(cfg.Pins, p)
		}
	}
	timeout := o.timeout
	if timeout <= 0 {
		timeout = time.Duration(file.Timeout)
	}
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return cfg, timeout, nil
}

func readConfig(path string) (fileConfig, error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return fileConfig{}, code.Wrap(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
		}
		return parseConfig(path, b)
	}
	for _, path := range defaultConfigs {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fileConfig{}, code.Wrap(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
		}
		return parseConfig(path, b)
	}
	return fileConfig{}, applet.WithHint(applet.Usage("no server and pin are given, and none of %s exists", strings.Join(defaultConfigs, ", ")),
		"for example: fetch-secret -server tcp://10.0.0.1:8451 -pin sha256:...")
}

// parseConfig reads either form, told apart by the file's name.
func parseConfig(path string, b []byte) (fileConfig, error) {
	if filepath.Base(path) == "init.json" {
		c, err := config.Parse(b)
		if err != nil {
			return fileConfig{}, fmt.Errorf("%q: %w", path, err)
		}
		return required(path, fileConfig{Servers: c.Servers, Pins: c.Pins, Policy: c.Policy, Timeout: c.Timeout})
	}
	var c fileConfig
	if err := strictjson.Unmarshal(b, &c); err != nil {
		return c, code.Wrap(code.ConfigBad, fmt.Errorf("%q: %w", path, err))
	}
	return required(path, c)
}

// required refuses a file without servers, or without anything to know them by:
// an init.json may do without.
func required(path string, c fileConfig) (fileConfig, error) {
	if len(c.Servers) == 0 || len(c.Pins) == 0 && c.Policy == "" {
		return c, code.Wrap(code.ConfigBad, fmt.Errorf("%q: servers and pins are required, or policy in place of pins", path))
	}
	return c, nil
}
