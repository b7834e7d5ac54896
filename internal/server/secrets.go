package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Secrets are what an instance is released. The owner calls Zero.
//
// Encoding: the domain string, the disk key, the previous disk key, then name
// and value of each secret; each preceded by its length, 4 bytes little-endian.
type Secrets struct {
	DiskKey         *secret.Bytes
	PreviousDiskKey *secret.Bytes // only while a rotation is open
	Named           []wire.NamedSecret
}

const domainSecrets = "attestbox/state/secrets/1"

// Zero wipes all of them.
func (s *Secrets) Zero() {
	if s == nil {
		return
	}
	s.DiskKey.Zero()
	s.PreviousDiskKey.Zero()
	for _, n := range s.Named {
		n.Value.Zero()
	}
}

// payload is a release with these secrets, which it borrows.
func (s *Secrets) payload(i *Instance) *wire.Payload {
	p := &wire.Payload{Headers: i.Headers, Secrets: s.Named}
	if i.HasDiskKey { // not so while an enrolment has no record yet
		p.DiskKey, p.PreviousDiskKey = s.DiskKey, s.PreviousDiskKey
	}
	return p
}

func (s *Secrets) marshal() (*secret.Bytes, error) {
	fields := [][]byte{[]byte(domainSecrets), s.DiskKey.Bytes(), s.PreviousDiskKey.Bytes()}
	seen := map[string]bool{}
	for _, n := range s.Named {
		if !wire.ValidSecretName(n.Name) || seen[n.Name] {
			return nil, fmt.Errorf("secret name %.64q is invalid or given twice", n.Name)
		}
		seen[n.Name] = true
		fields = append(fields, []byte(n.Name), n.Value.Bytes())
	}
	size := 0
	for _, f := range fields {
		size += 4 + len(f)
	}
	out := secret.New(size)
	b := out.Bytes()[:0]
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return out, nil
}

// parseSecrets copies; b stays the caller's to wipe.
func parseSecrets(b []byte) (s *Secrets, err error) {
	s = &Secrets{}
	defer func() {
		if err != nil {
			s.Zero()
			s = nil
		}
	}()
	next := func() []byte {
		if err != nil {
			return nil
		}
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
			err = errors.New("truncated secrets")
			return nil
		}
		n := 4 + binary.LittleEndian.Uint32(b)
		f := b[4:n]
		b = b[n:]
		return f
	}
	if d := next(); err == nil && string(d) != domainSecrets {
		return s, errors.New("not a record of secrets")
	}
	s.DiskKey, s.PreviousDiskKey = secret.Copy(next()), secret.Copy(next())
	seen := map[string]bool{}
	for err == nil && len(b) > 0 {
		name, value := string(next()), next()
		if err != nil {
			break
		}
		if !wire.ValidSecretName(name) || seen[name] || len(s.Named) == wire.MaxSecrets {
			return s, fmt.Errorf("secret name %.64q is invalid, given twice or one too many", name)
		}
		seen[name] = true
		s.Named = append(s.Named, wire.NamedSecret{Name: name, Value: secret.Copy(value)})
	}
	return s, err
}

// secrets opens an instance's secrets; the caller calls Zero.
func (st *State) secrets(ctx context.Context, id wire.Hex32) (*Secrets, error) {
	b, _, err := st.s.GetSecret(ctx, prefixSecrets+id.String())
	if err != nil {
		return nil, fmt.Errorf("reading the secrets of %s: %w", id, err)
	}
	defer b.Zero()
	s, err := parseSecrets(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading the secrets of %s: %w", id, err)
	}
	return s, nil
}
