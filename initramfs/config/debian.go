package config

import (
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// DebianPath is the configuration of the Debian package, which its hook puts
// into the initramfs of the distribution.
const DebianPath = "/etc/attestbox/boot.json"

// Debian is the mode of a distribution's own initramfs: attestation is ours,
// the mapping is cryptsetup's and the rest is Debian's scripts'.
const Debian = "debian"

// debianFile is Config without what Debian decides by itself.
type debianFile struct {
	Servers   []string   `json:"servers"`
	Pins      []wire.Pin `json:"pins,omitempty"`
	Policy    string     `json:"policy,omitempty"`
	Network   Network    `json:"network"`
	Timeout   Duration   `json:"timeout,omitempty"`
	OnFailure OnFailure  `json:"on_failure,omitzero"`
	MinTime   int64      `json:"min_time,omitempty"`
}

// ParseDebian reads the file of DebianPath; its mode is Debian. Every error has
// the code config-bad.
func ParseDebian(data []byte) (*Config, error) {
	c, err := parseDebian(data)
	if err != nil {
		return nil, code.Wrap(code.ConfigBad, err)
	}
	return c, nil
}

func parseDebian(data []byte) (*Config, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), MaxSize)
	}
	var f debianFile
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	c := &Config{Mode: Debian, Servers: f.Servers, Pins: f.Pins, Policy: f.Policy, Network: f.Network,
		Timeout: f.Timeout, OnFailure: f.OnFailure, MinTime: f.MinTime}
	c.defaults()
	if len(c.Servers) == 0 {
		return nil, errors.New("servers: a disk is to be opened, so at least one verifier is needed")
	}
	return c, c.checkCommon()
}
