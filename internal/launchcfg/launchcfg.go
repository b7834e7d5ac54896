// Package launchcfg says which verifier a program of a VM asks, and how it is
// known: from flags, or from the file that the image or its owner wrote.
package launchcfg

import (
	"context"
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
	"attestbox/internal/instanceid"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Defaults are the files that are tried in order where none is named.
var Defaults = []string{"/etc/attestbox/fetch-secret.json", "/etc/attestbox/init.json", config.DebianPath}

// DefaultTimeout bounds a program that was given no time.
const DefaultTimeout = 5 * time.Minute

// File is /etc/attestbox/fetch-secret.json.
type File struct {
	Servers []string        `json:"servers"`
	Pins    []wire.Pin      `json:"pins"`
	Policy  string          `json:"policy"` // path of the domain's policy certificate
	Timeout config.Duration `json:"timeout"`
}

// Read reads a file, or the first of Defaults that exists.
func Read(path string) (File, error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return File{}, code.Wrap(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
		}
		return Parse(path, b)
	}
	for _, path := range Defaults {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return File{}, code.Wrap(code.ConfigBad, fmt.Errorf("reading the configuration: %w", err))
		}
		return Parse(path, b)
	}
	return File{}, applet.WithHint(applet.Usage("no server and pin are given, and none of %s exists", strings.Join(Defaults, ", ")),
		"for example: -server tcp://10.0.0.1:8451 -pin sha256:...")
}

// Parse reads any of the forms, told apart by the file's name.
func Parse(path string, b []byte) (File, error) {
	parse := map[string]func([]byte) (*config.Config, error){
		filepath.Base(config.Path): config.Parse, filepath.Base(config.DebianPath): config.ParseDebian,
	}[filepath.Base(path)]
	if parse != nil {
		c, err := parse(b)
		if err != nil {
			return File{}, fmt.Errorf("%q: %w", path, err)
		}
		return required(path, File{Servers: c.Servers, Pins: c.Pins, Policy: c.Policy, Timeout: c.Timeout})
	}
	var c File
	if err := strictjson.Unmarshal(b, &c); err != nil {
		return c, code.Wrap(code.ConfigBad, fmt.Errorf("%q: %w", path, err))
	}
	return required(path, c)
}

// required refuses a file without servers, or without anything to know them by:
// an init.json may do without.
func required(path string, c File) (File, error) {
	if len(c.Servers) == 0 || len(c.Pins) == 0 && c.Policy == "" {
		return c, code.Wrap(code.ConfigBad, fmt.Errorf("%q: servers and pins are required, or policy in place of pins", path))
	}
	return c, nil
}

// Client is whom to ask by this file.
func (f *File) Client() (client.Config, error) {
	cfg := client.Config{Servers: f.Servers, Pins: f.Pins}
	var err error
	if cfg.Instance, err = instanceid.Read(instanceid.Path); err != nil {
		return client.Config{}, err
	}
	if f.Policy != "" {
		if cfg.Policy, err = memberflags.ReadPolicy(f.Policy); err != nil {
			return client.Config{}, err
		}
	}
	return cfg, nil
}

// Pins reads pins as flags have them.
func Pins(texts []string) ([]wire.Pin, error) {
	var out []wire.Pin
	for _, s := range texts {
		var p wire.Pin
		if err := p.UnmarshalText([]byte(s)); err != nil {
			return nil, applet.Usage("-pin %q: %v", s, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Flags are for a program of a running VM that asks its verifier.
type Flags struct {
	servers, pins applet.Strings
	config        string
	timeout       time.Duration
	verbose       bool
}

// Register adds the flags to an applet's.
func (f *Flags) Register(fs *applet.FlagSet) {
	fs.Var(&f.servers, "server", "ask the verifier at `ADDRESS`, tcp://host:port or vsock://cid:port; may be repeated (default: from -config)")
	fs.Var(&f.pins, "pin", "accept only the verifier key with this `PIN`, sha256:HEX; may be repeated (default: from -config)")
	fs.StringVar(&f.config, "config", "", "read servers, pins and timeout from `FILE` (default "+strings.Join(Defaults, ", then ")+")")
	fs.DurationVar(&f.timeout, "timeout", 0, "give up after `DURATION` (default: from -config, else 5m)")
	fs.BoolVar(&f.verbose, "v", false, "say what is being tried")
}

// Client is whom to ask, and a context for all of it.
func (f *Flags) Client(ctx context.Context, env *applet.Env) (client.Config, context.Context, context.CancelFunc, error) {
	var file File
	fail := func(err error) (client.Config, context.Context, context.CancelFunc, error) {
		return client.Config{}, ctx, func() {}, err
	}
	if f.config != "" || len(f.servers) == 0 || len(f.pins) == 0 {
		var err error
		if file, err = Read(f.config); err != nil {
			return fail(err)
		}
	}
	if len(f.servers) > 0 {
		file.Servers = f.servers
	}
	if len(f.pins) > 0 {
		var err error
		if file.Pins, err = Pins(f.pins); err != nil {
			return fail(err)
		}
	}
	cfg, err := file.Client()
	if err != nil {
		return fail(err)
	}
	if f.verbose {
		cfg.Logf = func(format string, a ...any) { fmt.Fprintf(env.Stderr, env.Name+": "+format+"\n", a...) }
	}
	timeout := f.timeout
	if timeout <= 0 {
		timeout = time.Duration(file.Timeout)
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return cfg, ctx, cancel, nil
}

// Exit gives a client's error its exit code.
func Exit(err error) error {
	c, _ := code.Of(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrRefused):
		return applet.WithHint(applet.Refused(c, err), "attestbox explain "+string(c)+"; the verifier's log has the reason under the exchange ID")
	case errors.Is(err, client.ErrLater), errors.Is(err, client.ErrUnreachable):
		return applet.WithHint(applet.Later(c, err), "attestbox explain "+string(c))
	}
	return err
}
