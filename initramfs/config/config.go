// Package config is the one configuration file of an image, read by init as
// PID 1 and by mkimage when it packs the image: /etc/attestbox/init.json. It
// is a file of the initramfs, so the launch digest covers it, and so it alone
// decides what the VM trusts and starts.
//
// The package also judges the kernel command line (DESIGN section 10): which
// words have to be on it and which must not be. It is pure: no files, no clock.
// It does not check that devices, programs or servers exist.
package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/strictjson"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

// Path is where the file lies in an image.
const Path = "/etc/attestbox/init.json"

// PolicyPath is where the domain's policy certificate lies in an image.
const PolicyPath = "/etc/attestbox/policy.crt"

// MaxSize bounds the file, in bytes.
const MaxSize = 256 << 10

// Modes of an image.
const (
	SwitchRoot = "switch-root" // open a LUKS2 root disk and start its init
	Run        = "run"         // run programs from the initramfs itself
	Stage1     = "bundle"      // start a signed bundle of kernel, initramfs and command line
)

// Defaults of optional keys.
const (
	DefaultTimeout  = 5 * time.Minute
	DefaultRootInit = "/sbin/init"
	DefaultStateDir = "/state"
	// DefaultMinTime is the clock's floor where min_time is absent:
	// 2026-01-01, in Unix seconds.
	DefaultMinTime = 1767225600
)

// Config is the file.
type Config struct {
	// Mode is SwitchRoot, Run or Stage1.
	Mode string `json:"mode"`
	// Servers are verifiers, tried in turn: "tcp://HOST:PORT" or
	// "vsock://CID:PORT". Only a Run image without a state disk may have none;
	// such an image makes no launch and gets no secrets from init.
	Servers []string `json:"servers,omitempty"`
	// Pins are the verifiers' keys, "sha256:" and 64 hex digits.
	Pins []wire.Pin `json:"pins,omitempty"`
	// Policy is the path of the domain's policy certificate in the image, always
	// PolicyPath: servers whose key it trusts by claim are accepted beside Pins.
	Policy string `json:"policy,omitempty"`
	// Network says how to bring the network up.
	Network Network `json:"network"`
	// Timeout bounds the whole boot until the system or the programs start.
	Timeout Duration `json:"timeout,omitempty"`
	// OnFailure is what happens after a failed boot.
	OnFailure OnFailure `json:"on_failure,omitzero"`
	// InstanceID is the ID of the one instance that this image is of, for hosts
	// that cannot set HOST_DATA: that must then be zeros. Absent: the ID is
	// HOST_DATA.
	InstanceID *wire.Hex32 `json:"instance_id,omitempty"`
	// MinTime is the floor of the clock, in Unix seconds: the image's build time.
	MinTime int64 `json:"min_time,omitempty"`
	// Root is the root disk, in SwitchRoot mode only.
	Root *Root `json:"root,omitempty"`
	// Programs are started in order, in Run mode only.
	Programs []Program `json:"programs,omitempty"`
	// Bundle is what a Stage1 image starts, and nothing else.
	Bundle *Bundle `json:"bundle,omitempty"`
	// State is where programs keep data in Run mode. In SwitchRoot mode it is an
	// encrypted disk beside a verity root.
	State *State `json:"state,omitempty"`
}

// Instance is InstanceID, zeros where the image brings none.
func (c *Config) Instance() wire.Hex32 {
	if c.InstanceID == nil {
		return wire.Hex32{}
	}
	return *c.InstanceID
}

// Methods of Network.
const (
	DHCP   = "dhcp"
	Static = "static"
	None   = "none"
)

// Network is the one interface that init brings up; loopback always is.
type Network struct {
	Method    string   `json:"method"`
	Interface string   `json:"interface,omitempty"` // default: the first that is not loopback, by index
	Address   string   `json:"address,omitempty"`   // "10.0.2.15/24", static only
	Gateway   string   `json:"gateway,omitempty"`   // static only
	DNS       []string `json:"dns,omitempty"`       // at most 3; with dhcp they replace the lease's
}

// Root is the disk that becomes the system's root.
type Root struct {
	Device  string   `json:"device"`            // "/dev/vda2"
	Name    string   `json:"name"`              // of the mapping, /dev/mapper/NAME
	FSType  string   `json:"fstype"`            // see FSTypes
	Options []string `json:"options,omitempty"` // mount options; nothing is implied
	Init    string   `json:"init,omitempty"`    // default DefaultRootInit
	// Verity makes it a read-only root in clear that is checked with every read;
	// without it the root is a LUKS2 disk.
	Verity *verity.Record `json:"verity,omitempty"`
}

// State types.
const (
	StateTmpfs = "tmpfs"
	StateDisk  = "disk"
)

// State is a writable place.
type State struct {
	Type    string   `json:"type"`             // StateTmpfs or StateDisk
	Path    string   `json:"path,omitempty"`   // where it is mounted; default DefaultStateDir
	Owner   string   `json:"owner,omitempty"`  // "root" or "UID:GID" of the mounted folder; default root
	Size    string   `json:"size,omitempty"`   // tmpfs only, "64M"; default 16M
	Device  string   `json:"device,omitempty"` // disk only, as in Root
	Name    string   `json:"name,omitempty"`
	FSType  string   `json:"fstype,omitempty"`
	Options []string `json:"options,omitempty"`
}

// When a program is started again after it ended.
const (
	RestartNever     = "never"      // not at all
	RestartOnFailure = "on-failure" // after a non-zero exit or a signal
	RestartAlways    = "always"     // after every exit
)

// Program is one supervised program of a Run image.
type Program struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"` // argv[0] is the absolute path
	// User is "root" or numbers, "UID:GID".
	User string `json:"user"`
	// Restart is one of the Restart constants.
	Restart string `json:"restart"`
	// Required: when the program cannot be started, or ends for good with a
	// failure, the VM is powered off.
	Required bool `json:"required"`
	// Wait: the next program is started only when this one has ended for good
	// (or, if it is optional, failed for good). Not with RestartAlways.
	Wait bool `json:"wait,omitempty"`
	// Secrets are names of released secrets that the program gets as files of
	// its own user in /run/attestbox/programs/NAME.
	Secrets []string `json:"secrets,omitempty"`
}

// Parse reads and checks the file and fills the defaults in. Every error has
// the code config-bad.
func Parse(data []byte) (*Config, error) {
	c, err := parse(data)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, err)
	}
	return c, nil
}

func parse(data []byte) (*Config, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), MaxSize)
	}
	c := &Config{}
	if err := strictjson.Unmarshal(data, c); err != nil {
		return nil, err
	}
	c.defaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) defaults() {
	if c.Timeout == 0 {
		c.Timeout = Duration(DefaultTimeout)
	}
	if c.MinTime == 0 {
		c.MinTime = DefaultMinTime
	}
	if c.Root != nil && c.Root.Init == "" {
		c.Root.Init = DefaultRootInit
	}
	if c.State != nil {
		if c.State.Owner == "" {
			c.State.Owner = "root"
		}
		if c.State.Path == "" {
			c.State.Path = DefaultStateDir
		}
		if c.State.Type == StateTmpfs && c.State.Size == "" {
			c.State.Size = "16M"
		}
	}
}

// Marshal writes the canonical form: every default spelled out. Parse of it
// gives the same configuration.
func (c *Config) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// Duration is a time.Duration written as "90s" or "5m".
type Duration time.Duration

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's notation; only positive durations up to a day.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || len(b) > 32 {
		return fmt.Errorf("%.32q is not a duration such as \"5m\"", b)
	}
	if v <= 0 || v > 24*time.Hour {
		return fmt.Errorf("duration %s is not between 0 and 24h", v)
	}
	*d = Duration(v)
	return nil
}

// OnFailure is "poweroff" (the zero value) or "reboot:DELAY".
type OnFailure struct {
	Reboot bool
	Delay  time.Duration
}

// IsZero makes the default disappear from JSON.
func (o OnFailure) IsZero() bool { return o == OnFailure{} }

// MarshalText is the inverse of UnmarshalText.
func (o OnFailure) MarshalText() ([]byte, error) {
	if !o.Reboot {
		return []byte("poweroff"), nil
	}
	return []byte("reboot:" + o.Delay.String()), nil
}

// UnmarshalText reads "poweroff" or "reboot:30s"; the delay is at least 1 s.
func (o *OnFailure) UnmarshalText(b []byte) error {
	if string(b) == "poweroff" {
		*o = OnFailure{}
		return nil
	}
	delay, ok := strings.CutPrefix(string(b), "reboot:")
	var d Duration
	if !ok || d.UnmarshalText([]byte(delay)) != nil || time.Duration(d) < time.Second {
		return fmt.Errorf(`on_failure is "poweroff" or "reboot:DELAY" with a delay of 1s to 24h, not %.40q`, b)
	}
	*o = OnFailure{Reboot: true, Delay: time.Duration(d)}
	return nil
}
