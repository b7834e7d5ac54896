package cryptstore

import (
	"context"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/recipient"
	"attestbox/internal/secret"
)

// An exported entry is the line exportMagic, then HPKE (package recipient, the
// line is its info): encapsulated key and ciphertext. Inside, each preceded by
// its length (4 bytes, little-endian): domain string, tag, type (1 byte),
// version (4), time (8, Unix seconds), algorithm, value.
//
// It does not say who made it: whoever knows the recipient's public key can.
const (
	exportMagic  = "attestbox cryptstore entry 1\n"
	domainExport = "attestbox/cryptstore/export/1"

	// MaxExport bounds an exported entry, in bytes.
	MaxExport = MaxValue + 4096
)

// ErrExport is an exported entry that was changed, is for another recipient,
// or is none.
var ErrExport = errors.New("not an exported entry for this key, or it was changed")

// Export encrypts one version of an entry, 0 for the latest, to a recipient:
// ErrNotExportable unless the entry is exportable or public.
func (s *Store) Export(ctx context.Context, tag string, t Type, version int, to hpke.PublicKey) ([]byte, Entry, error) {
	v, e, err := s.get(ctx, tag, t, version, func(e Entry) error {
		if !e.Exportable && !e.Type.Public() {
			return fmt.Errorf("%s: %w", e, ErrNotExportable)
		}
		return nil
	})
	if err != nil {
		return nil, e, err
	}
	defer v.Zero()
	plain := marshalExport(e, v)
	defer plain.Zero()
	box, err := recipient.Seal(to, []byte(exportMagic), plain.Bytes())
	if err != nil {
		return nil, e, fmt.Errorf("exporting %s: %w", e, err)
	}
	return append([]byte(exportMagic), box...), e, nil
}

func marshalExport(e Entry, v *secret.Bytes) *secret.Bytes {
	le := binary.LittleEndian
	head := lengthPrefixed([]byte(domainExport), []byte(e.Tag), []byte{byte(e.Type)}, le.AppendUint32(nil, uint32(e.Version)),
		le.AppendUint64(nil, uint64(e.Time.Unix())), []byte(e.Alg))
	out := secret.New(len(head) + 4 + v.Len())
	b := out.Bytes()
	n := copy(b, head)
	le.PutUint32(b[n:], uint32(v.Len()))
	copy(b[n+4:], v.Bytes())
	return out
}

// parseExport takes the inside of an exported entry apart. The caller zeroes
// the value.
func parseExport(b []byte) (e Entry, v *secret.Bytes, err error) {
	r := reader{b: b}
	next := func() []byte { return r.take(int(r.u32())) }
	domain, tag, typ, version, at, alg, value := next(), next(), next(), next(), next(), next(), next()
	if r.bad || len(r.b) > 0 || string(domain) != domainExport || len(typ) != 1 || len(version) != 4 || len(at) != 8 {
		return e, nil, ErrExport
	}
	le := binary.LittleEndian
	rec := record{epoch: 1, Entry: Entry{
		Tag: string(tag), Type: Type(typ[0]), Version: int(le.Uint32(version)), Exportable: true,
		Time: time.Unix(int64(le.Uint64(at)), 0).UTC(), Alg: Alg(alg), Size: len(value),
	}}
	if err := rec.check(); err != nil {
		return e, nil, fmt.Errorf("%w: %v", ErrExport, err)
	}
	v = secret.Copy(value)
	if err := CheckValue(rec.Type, v); err != nil {
		v.Zero()
		return e, nil, fmt.Errorf("%w: %v", ErrExport, err)
	}
	return rec.Entry, v, nil
}

// Import adds an exported entry as the next version of its tag and type.
func (s *Store) Import(ctx context.Context, exported []byte, by hpke.PrivateKey) (Entry, error) {
	body, ok := strings.CutPrefix(string(exported), exportMagic)
	if !ok || len(exported) > MaxExport {
		return Entry{}, coded(ErrExport)
	}
	plain, err := recipient.Open(by, []byte(exportMagic), []byte(body))
	if err != nil {
		return Entry{}, coded(ErrExport)
	}
	defer plain.Zero()
	e, v, err := parseExport(plain.Bytes())
	if err != nil {
		return Entry{}, coded(err)
	}
	defer v.Zero()
	return s.put(ctx, Item{Tag: e.Tag, Type: e.Type, Exportable: true, Value: v}, e.Alg)
}
