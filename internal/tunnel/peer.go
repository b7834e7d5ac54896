package tunnel

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"attestbox/internal/admission"
	"attestbox/internal/code"
)

// Peer is one way for the other end to be acceptable.
type Peer struct {
	any         bool
	role        string
	measurement []byte
}

// AnyOfDomain is the text of the Peer that every member is.
const AnyOfDomain = "any-of-domain"

// ParsePeer reads "measurement:HEX", "role:NAME" or "any-of-domain".
func ParsePeer(s string) (Peer, error) {
	kind, value, _ := strings.Cut(s, ":")
	switch {
	case s == AnyOfDomain:
		return Peer{any: true}, nil
	case kind == "measurement":
		m, err := hex.DecodeString(value)
		if err != nil || len(m) < 32 || len(m) > 64 || strings.ToLower(value) != value {
			return Peer{}, fmt.Errorf("peer %.160q: a measurement is 64 to 128 lower-case hex digits", s)
		}
		return Peer{measurement: m}, nil
	case kind == "role" && value != "" && strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789-") == "":
		return Peer{role: value}, nil
	}
	return Peer{}, fmt.Errorf("peer %.160q is none of measurement:HEX, role:NAME, %s", s, AnyOfDomain)
}

func (p Peer) String() string {
	switch {
	case p.any:
		return AnyOfDomain
	case p.role != "":
		return "role:" + p.role
	}
	return fmt.Sprintf("measurement:%x", p.measurement)
}

func (p Peer) allows(id *admission.Identity) bool {
	switch {
	case p.any:
		return true
	case p.role != "":
		return id.HasRole(p.role)
	}
	return len(p.measurement) > 0 && bytes.Equal(p.measurement, id.Measurement)
}

// allow refuses an identity that no peer of the list is; an empty list refuses
// everybody.
func allow(peers []Peer, id *admission.Identity) error {
	for _, p := range peers {
		if p.allows(id) {
			return nil
		}
	}
	return code.Wrap(code.TunnelPeer, fmt.Errorf("the other end is not one that -peer allows: %s", id))
}
