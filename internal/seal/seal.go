// Package seal binds a cryptstore to the VM that wrote it (DESIGN section 7).
//
// On AMD SEV-SNP the platform's part of the sealing key is asked for with
// MSG_KEY_REQ (AMD 56860, section "Key Derivation"): the VCEK's root, VMPL 0,
// selecting guest policy, measurement, family ID, image ID, and the SVN and TCB
// that the header records. A DEBUG relaunch, another image and another chip get
// another key; older firmware gets none; newer firmware can still ask for it.
// HOST_DATA cannot be selected, so that key is the same for all instances of an
// image on a chip, and never seals alone:
//
//	sealing key = HKDF-SHA-256(derived key || server's share, info)
//
// where info is, each preceded by its length (4 bytes, little-endian), the
// domain string, "shared" or "offline", platform, domain, HOST_DATA, store name
// and store ID. The share is 32 bytes per instance and measurement, which the
// server releases to attested VMs alone (see ShareOf).
//
// Offline there is no share. That gives up: secrecy between instances (root in
// another instance of the image on this chip can compute this one's key, for
// nothing but HOST_DATA tells them apart), the epoch that shows an older copy,
// revocation (the VM opens its store whatever the domain thinks of it by now),
// and recovery.
package seal

import (
	"context"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/wire"
)

// ShareSize is the size of the server's share, in bytes.
const ShareSize = 32

const (
	domainSeal  = "attestbox/seal/1"
	domainShare = "attestbox/seal/share/1"
)

// Config says what seals.
type Config struct {
	Platform platform.Platform // a platform.KeyDeriver; stays the caller's
	Domain   string            // name of the security domain
	Share    *secret.Bytes     // the server's share; stays the caller's
	Offline  bool              // there is no share: see the package
	// Instance is the ID that the image brings; it stands where HOST_DATA does,
	// which must then be zeros. Zeros: HOST_DATA is the ID.
	Instance [32]byte
	// EscrowTo is the server's key for escrow copies; nil makes none. It is
	// trusted: take it from an authenticated answer.
	EscrowTo hpke.PublicKey
}

// Sealer seals by a platform. It implements cryptstore.Sealer.
type Sealer struct {
	c     Config
	keys  platform.KeyDeriver
	state State
	tcb   uint64
	svn   uint32
	vlek  bool
}

var _ cryptstore.Sealer = (*Sealer)(nil)

// New asks the platform what this VM is.
func New(ctx context.Context, c Config) (*Sealer, error) {
	s := &Sealer{c: c}
	var ok bool
	if s.keys, ok = c.Platform.(platform.KeyDeriver); !ok {
		return nil, fmt.Errorf("platform %q derives no keys", c.Platform.Name())
	}
	switch {
	case c.Domain == "" || len(c.Domain) > MaxDomain:
		return nil, fmt.Errorf("domain name of %d bytes, want 1 to %d", len(c.Domain), MaxDomain)
	case c.Offline && (c.Share.Len() > 0 || c.EscrowTo != nil):
		return nil, errors.New("offline sealing has neither the server's share nor an escrow copy")
	case !c.Offline && c.Share.Len() != ShareSize:
		return nil, fmt.Errorf("the server's share has %d bytes, want %d", c.Share.Len(), ShareSize)
	}
	// What no verifier takes for anything: the answer stays in this VM.
	ev, err := c.Platform.Report(ctx, wire.LearnIDReportData())
	if err != nil {
		return nil, fmt.Errorf("asking the platform what this VM is: %w", err)
	}
	s.state.Domain = c.Domain
	switch name := c.Platform.Name(); name {
	case platform.AMDSEVSNP:
		return s, s.fromSNP(ev.Report)
	case platform.SimulatedEnclave:
		e, err := simenclave.Parse(ev.Report)
		if err != nil {
			return nil, err
		}
		s.state.Measurement = e.Measurement[:]
		copy(s.state.ChipID[:], e.Key)
		return s, nil
	default:
		return nil, fmt.Errorf("platform %q cannot seal", name)
	}
}

func (s *Sealer) fromSNP(report []byte) error {
	r, err := snp.Parse(report)
	if err != nil {
		return err
	}
	if r.VMPL != 0 {
		return fmt.Errorf("this VM runs at VMPL %d, sealing is for VMPL 0", r.VMPL)
	}
	instance := r.HostData
	if s.c.Instance != [32]byte{} {
		if instance != [32]byte{} {
			return errors.New("HOST_DATA is set, and this image brings its instance ID")
		}
		instance = s.c.Instance
	}
	if !s.c.Offline && instance == [32]byte{} {
		return errors.New("HOST_DATA is zero: this VM is no instance, and the server has no share for it")
	}
	s.state.Policy = uint64(r.Policy)
	s.state.FamilyID, s.state.ImageID = r.FamilyID, r.ImageID
	s.state.ChipID, s.state.HostData = r.ChipID, instance
	s.state.Measurement = r.Measurement[:]
	s.tcb, s.svn = r.CommittedTCB, r.GuestSVN
	s.vlek = r.KeyInfo.SigningKey() == snp.SignedByVLEK
	return nil
}

// State is what the platform says about this VM.
func (s *Sealer) State() State { return s.state }

// Seal is cryptstore.Sealer's.
func (s *Sealer) Seal(ctx context.Context, b cryptstore.Binding) (string, []byte, *secret.Bytes, error) {
	kind := s.c.Platform.Name()
	p := &Params{Shared: !s.c.Offline, Key: request(kind, platform.RootVCEK, s.svn, s.tcb), State: s.state}
	key, err := s.derive(ctx, p, b)
	if errors.Is(err, platform.ErrKeyRefused) && kind == platform.AMDSEVSNP && !s.vlek {
		// Firmware from before VLEKs reserves the bits that ask for the VCEK,
		// and has nothing else. With a VLEK the default is another root.
		p.Key.RootKeySelect = platform.RootDefault
		key, err = s.derive(ctx, p, b)
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("sealing: %w", err)
	}
	return kind, p.marshal(), key, nil
}

// Unseal is cryptstore.Sealer's. Only what asking again cannot mend is
// cryptstore.ErrSealed.
func (s *Sealer) Unseal(ctx context.Context, b cryptstore.Binding, kind string, params []byte) (*secret.Bytes, error) {
	sealed := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", cryptstore.ErrSealed, fmt.Sprintf(format, a...))
	}
	if kind != s.c.Platform.Name() {
		return nil, sealed("it is sealed by %s, this is %s", kind, s.c.Platform.Name())
	}
	p, err := ParseParams(kind, params)
	if err != nil {
		return nil, sealed("%v", err)
	}
	if why := p.differ(&s.state); why != "" {
		return nil, sealed("%s", why)
	}
	switch {
	case p.Shared && s.c.Offline:
		return nil, sealed("the server's share is part of its key")
	case !p.Shared && !s.c.Offline:
		return nil, sealed("it was sealed offline, without the server's share")
	}
	key, err := s.derive(ctx, p, b)
	if errors.Is(err, platform.ErrKeyRefused) {
		return nil, sealed("firmware or guest SVN is older than what sealed it: %v", err)
	}
	return key, err
}

// derive makes the sealing key of parameters.
func (s *Sealer) derive(ctx context.Context, p *Params, b cryptstore.Binding) (*secret.Bytes, error) {
	derived, err := s.keys.DeriveKey(ctx, p.Key)
	if err != nil {
		return nil, err
	}
	defer derived.Zero()
	ikm := secret.New(derived.Len() + s.c.Share.Len())
	defer ikm.Zero()
	copy(ikm.Bytes(), derived.Bytes())
	copy(ikm.Bytes()[derived.Len():], s.c.Share.Bytes())
	mode := "shared"
	if s.c.Offline {
		mode = "offline"
	}
	info := lengthPrefixed([]byte(domainSeal), []byte(mode), []byte(s.c.Platform.Name()), []byte(s.state.Domain), s.state.HostData[:], []byte(b.Name), b.ID[:])
	key, err := hkdf.Key(sha256.New, ikm.Bytes(), nil, string(info), cryptstore.KeySize)
	if err != nil {
		return nil, err
	}
	return secret.Take(key), nil
}

// ShareOf is how a server makes the share of an instance and a measurement
// from a secret of at least 32 bytes that it keeps for the instance. The
// measurement is part of it, so that a VM with another image of the same
// instance can neither open a store that this one sealed nor claim to have
// sealed it: see Rewrap.
func ShareOf(instance *secret.Bytes, domain, platform string, hostData [32]byte, measurement []byte, store string) (*secret.Bytes, error) {
	if instance.Len() < ShareSize {
		return nil, fmt.Errorf("instance secret of %d bytes, want %d", instance.Len(), ShareSize)
	}
	info := lengthPrefixed([]byte(domainShare), []byte(domain), []byte(platform), hostData[:], measurement, []byte(store))
	k, err := hkdf.Key(sha256.New, instance.Bytes(), nil, string(info), ShareSize)
	if err != nil {
		return nil, err
	}
	return secret.Take(k), nil
}

// lengthPrefixed joins fields, each preceded by its length (4 bytes,
// little-endian).
func lengthPrefixed(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}
