package seal

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/recipient"
	"attestbox/internal/secret"
)

// Escrow is the copy of a store key that only the server can open, kept in the
// store's header. Integers little-endian:
//
//	size  field
//	8     magic "ABXESCRW"
//	4     version, 1
//	16    store ID
//	32    HOST_DATA
//	1+n   store name
//	1+n   domain
//	1+n   platform that sealed
//	1+n   measurement that sealed
//	2+n   store key, HPKE (package recipient) to the server's escrow key; info
//	      is everything in front
//	32    HMAC-SHA-256 of everything in front; its key is HKDF-SHA-256 of the
//	      server's share, info "attestbox/seal/escrow-mac/1"
//
// HPKE alone would let anybody make one: a host could plant a store whose key
// it knows. The MAC shows that whoever made it had the share of this instance
// and measurement.
type Escrow struct {
	Store       cryptstore.Binding
	HostData    [32]byte
	Domain      string
	Platform    string
	Measurement []byte

	box []byte
	mac [32]byte
}

const (
	escrowMagic   = "ABXESCRW"
	escrowVersion = 1
	domainMAC     = "attestbox/seal/escrow-mac/1"
	domainRewrap  = "attestbox/seal/rewrap/1"
)

var (
	// ErrEscrow is an escrow copy that is malformed, was changed, or was not
	// made by a VM that had the share.
	ErrEscrow = errors.New("the escrow copy is not genuine")
	// ErrMayNotSucceed is a decision: the VM may not have the store key.
	ErrMayNotSucceed = errors.New("this VM may not open the store")
)

func (e *Escrow) head() []byte {
	b := binary.LittleEndian.AppendUint32([]byte(escrowMagic), escrowVersion)
	b = slices.Concat(b, e.Store.ID[:], e.HostData[:])
	for _, f := range []string{e.Store.Name, e.Domain, e.Platform, string(e.Measurement)} {
		b = append(append(b, byte(len(f))), f...)
	}
	return b
}

func (e *Escrow) marshal() []byte { return append(e.body(), e.mac[:]...) }

func (e *Escrow) body() []byte {
	b := e.head()
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(e.box))), e.box...)
}

// ParseEscrow reads an escrow copy; what it says is not verified: Rewrap does.
func ParseEscrow(b []byte) (*Escrow, error) {
	const fixed = len(escrowMagic) + 4 + 16 + 32
	if len(b) < fixed || len(b) > cryptstore.MaxEscrow || string(b[:8]) != escrowMagic || binary.LittleEndian.Uint32(b[8:]) != escrowVersion {
		return nil, fmt.Errorf("%w: not of version %d", ErrEscrow, escrowVersion)
	}
	e := &Escrow{}
	copy(e.Store.ID[:], b[12:])
	copy(e.HostData[:], b[28:])
	b = b[fixed:]
	var measurement string
	for _, f := range []*string{&e.Store.Name, &e.Domain, &e.Platform, &measurement} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return nil, fmt.Errorf("%w: it was cut", ErrEscrow)
		}
		*f = string(b[1 : 1+int(b[0])])
		b = b[1+len(*f):]
	}
	e.Measurement = []byte(measurement)
	if len(b) < 2 || len(b) != 2+int(binary.LittleEndian.Uint16(b))+len(e.mac) {
		return nil, fmt.Errorf("%w: it was cut", ErrEscrow)
	}
	e.box = slices.Clone(b[2 : len(b)-len(e.mac)])
	copy(e.mac[:], b[len(b)-len(e.mac):])
	if cryptstore.CheckName(e.Store.Name) != nil || e.Domain == "" || len(e.Measurement) != measurementSize(e.Platform) {
		return nil, fmt.Errorf("%w: malformed", ErrEscrow)
	}
	return e, nil
}

func (e *Escrow) sum(share *secret.Bytes) ([]byte, error) {
	if share.Len() != ShareSize {
		return nil, fmt.Errorf("share of %d bytes, want %d", share.Len(), ShareSize)
	}
	k, err := hkdf.Key(sha256.New, share.Bytes(), nil, domainMAC, 32)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	m := hmac.New(sha256.New, k)
	m.Write(e.body())
	return m.Sum(nil), nil
}

// Escrow is cryptstore.Sealer's.
func (s *Sealer) Escrow(_ context.Context, b cryptstore.Binding, storeKey *secret.Bytes) ([]byte, error) {
	if s.c.EscrowTo == nil {
		return nil, nil
	}
	e := &Escrow{Store: b, HostData: s.state.HostData, Domain: s.state.Domain, Platform: s.c.Platform.Name(), Measurement: s.state.Measurement}
	var err error
	if e.box, err = recipient.Seal(s.c.EscrowTo, e.head(), storeKey.Bytes()); err != nil {
		return nil, err
	}
	mac, err := e.sum(s.c.Share)
	if err != nil {
		return nil, err
	}
	copy(e.mac[:], mac)
	return e.marshal(), nil
}

// RewrapRequest is what the server knows when a VM asks for recovery. Who asks
// is what verified evidence says, never what the VM says.
type RewrapRequest struct {
	Escrow []byte
	Key    hpke.PrivateKey // the server's escrow key

	// Share finds the share that was released to what the escrow copy names:
	// ShareOf(instance secret, e.Domain, e.Platform, e.HostData,
	// e.Measurement, e.Store.Name). Rewrap zeroes it.
	Share func(e *Escrow) (*secret.Bytes, error)

	Domain      string
	Platform    string
	HostData    [32]byte
	Measurement []byte
	// MaySucceed is policy: may the new measurement have what the old one
	// sealed? Asked also if both are the same, after a move to another chip.
	MaySucceed func(new, old []byte) bool

	To   hpke.PublicKey // made by the VM for this exchange
	Info []byte         // transcript of this exchange
}

// Rewrap decides whether the VM that asks may have the store key of an escrow
// copy, and encrypts it to that VM: ErrEscrow, ErrMayNotSucceed. The instance,
// the domain and the platform must be those that sealed.
func Rewrap(q RewrapRequest) ([]byte, error) {
	key, e, err := openEscrow(q)
	if err != nil {
		return nil, code.Wrap(code.CryptstoreRecovery, err)
	}
	defer key.Zero()
	b, err := recipient.Seal(q.To, rewrapInfo(e.Store, q.Info), key.Bytes())
	if err != nil {
		return nil, fmt.Errorf("wrapping the store key: %w", err)
	}
	return b, nil
}

func openEscrow(q RewrapRequest) (*secret.Bytes, *Escrow, error) {
	e, err := ParseEscrow(q.Escrow)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case e.Domain != q.Domain:
		return nil, nil, fmt.Errorf("%w: it belongs to domain %q", ErrMayNotSucceed, e.Domain)
	case e.Platform != q.Platform:
		return nil, nil, fmt.Errorf("%w: it was sealed by %s", ErrMayNotSucceed, e.Platform)
	case e.HostData != q.HostData:
		return nil, nil, fmt.Errorf("%w: instance %x sealed it", ErrMayNotSucceed, e.HostData)
	case q.MaySucceed == nil || !q.MaySucceed(q.Measurement, e.Measurement):
		return nil, nil, fmt.Errorf("%w: no claim says that %x may succeed %x", ErrMayNotSucceed, q.Measurement, e.Measurement)
	}
	share, err := q.Share(e)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the share of the escrow copy: %w", err)
	}
	defer share.Zero()
	mac, err := e.sum(share)
	if err != nil {
		return nil, nil, err
	}
	if !hmac.Equal(mac, e.mac[:]) {
		return nil, nil, fmt.Errorf("%w: wrong MAC", ErrEscrow)
	}
	key, err := recipient.Open(q.Key, e.head(), e.box)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: it is for another key", ErrEscrow)
	}
	if key.Len() != cryptstore.KeySize {
		key.Zero()
		return nil, nil, fmt.Errorf("%w: key of another size", ErrEscrow)
	}
	return key, e, nil
}

func rewrapInfo(b cryptstore.Binding, info []byte) []byte {
	return lengthPrefixed([]byte(domainRewrap), b.ID[:], []byte(b.Name), info)
}
