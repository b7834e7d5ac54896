package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"attestbox/internal/form"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
)

// NamedSecret is a further secret of an instance.
type NamedSecret struct {
	Name  string // a file name: see ValidSecretName
	Value *secret.Bytes
}

// Payload is what a release carries. Its owner calls Zero.
//
// Encoding, so that no secret passes through a JSON string: the domain string
// and the fields below in order, each preceded by its length (4 bytes,
// little-endian); numbers as 8 bytes little-endian; header records as one JSON
// array; then each secret as name and value.
type Payload struct {
	DiskKey          *secret.Bytes  // the LUKS key, 32 bytes of entropy; empty for a VM without a disk
	PreviousDiskKey  *secret.Bytes  // only while a rotation is open, else empty
	Headers          []HeaderRecord // registered headers
	Boot             uint64         // B: this boot's number
	Committed        uint64         // C: the last boot that was acknowledged
	OutcomeKey       *secret.Bytes  // 32 bytes
	Time             int64          // the verifier's clock, Unix seconds
	MinPolicyVersion uint64
	Secrets          []NamedSecret
}

// OutcomeKeySize is the size of an outcome key, in bytes.
const OutcomeKeySize = 32

// Zero wipes every secret in the payload.
func (p *Payload) Zero() {
	if p == nil {
		return
	}
	p.DiskKey.Zero()
	p.PreviousDiskKey.Zero()
	p.OutcomeKey.Zero()
	for _, s := range p.Secrets {
		s.Value.Zero()
	}
}

// nameFirst and nameRest are the characters of names of secrets and keys.
var nameFirst, nameRest = form.Chars("A-Za-z0-9_"), form.Chars("A-Za-z0-9._-")

// ValidSecretName says whether a name can be a file in a flat folder.
func ValidSecretName(name string) bool {
	return len(name) <= MaxSecretName && form.Word(name, nameFirst, nameRest)
}

// Size is the length of the encoding, in bytes.
func (p *Payload) Size() (int, error) {
	headers, err := p.headersJSON()
	if err != nil {
		return 0, err
	}
	n := 4 + len(domainPayload) + 4 + p.DiskKey.Len() + 4 + p.PreviousDiskKey.Len() + 4 + len(headers) +
		3*(4+8) + 4 + p.OutcomeKey.Len() + 4 + 8
	for _, s := range p.Secrets {
		n += 4 + len(s.Name) + 4 + s.Value.Len()
	}
	return n, nil
}

func (p *Payload) headersJSON() ([]byte, error) {
	if p.Headers == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(p.Headers)
}

func (p *Payload) marshal() (*secret.Bytes, error) {
	size, err := p.Size()
	if err != nil {
		return nil, err
	}
	if size > MaxPayload || len(p.Secrets) > MaxSecrets || len(p.Headers) > MaxHeaders {
		return nil, fmt.Errorf("payload of %d bytes, %d secrets, %d headers: more than a release can carry", size, len(p.Secrets), len(p.Headers))
	}
	if p.OutcomeKey.Len() != OutcomeKeySize {
		return nil, fmt.Errorf("outcome key of %d bytes, want %d", p.OutcomeKey.Len(), OutcomeKeySize)
	}
	headers, err := p.headersJSON()
	if err != nil {
		return nil, err
	}
	out := secret.New(size)
	b := out.Bytes()[:0]
	put := func(f []byte) {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	putNumber := func(n uint64) { put(binary.LittleEndian.AppendUint64(nil, n)) }
	put([]byte(domainPayload))
	put(p.DiskKey.Bytes())
	put(p.PreviousDiskKey.Bytes())
	put(headers)
	putNumber(p.Boot)
	putNumber(p.Committed)
	put(p.OutcomeKey.Bytes())
	putNumber(uint64(p.Time))
	putNumber(p.MinPolicyVersion)
	names := map[string]bool{}
	for _, s := range p.Secrets {
		if !ValidSecretName(s.Name) || names[s.Name] {
			out.Zero()
			return nil, fmt.Errorf("secret name %.64q is invalid or given twice", s.Name)
		}
		names[s.Name] = true
		put([]byte(s.Name))
		put(s.Value.Bytes())
	}
	return out, nil
}

// parsePayload is the inverse of marshal. It copies the secrets; b stays the
// caller's to wipe.
func parsePayload(b []byte) (p *Payload, err error) {
	p = &Payload{}
	defer func() {
		if err != nil {
			p.Zero()
			p, err = nil, fmt.Errorf("%w: payload: %v", ErrMalformed, err)
		}
	}()
	if len(b) > MaxPayload {
		return p, fmt.Errorf("%d bytes, at most %d", len(b), MaxPayload)
	}
	r := fieldReader{rest: b}
	if d := r.next(); string(d) != domainPayload {
		return p, fmt.Errorf("begins with %.32q", d)
	}
	p.DiskKey = secret.Copy(r.next())
	p.PreviousDiskKey = secret.Copy(r.next())
	headers := r.next()
	p.Boot = r.number()
	p.Committed = r.number()
	p.OutcomeKey = secret.Copy(r.next())
	p.Time = int64(r.number())
	p.MinPolicyVersion = r.number()
	if r.err != nil {
		return p, r.err
	}
	if p.OutcomeKey.Len() != OutcomeKeySize {
		return p, fmt.Errorf("outcome key of %d bytes", p.OutcomeKey.Len())
	}
	if err := strictjson.Unmarshal(headers, &p.Headers); err != nil {
		return p, err
	}
	if again, err := p.headersJSON(); err != nil || string(again) != string(headers) {
		return p, fmt.Errorf("header records are not in canonical form")
	}
	if len(p.Headers) > MaxHeaders {
		return p, fmt.Errorf("%d header records", len(p.Headers))
	}
	for len(r.rest) > 0 && r.err == nil {
		name, value := string(r.next()), r.next()
		if r.err != nil {
			break
		}
		if len(p.Secrets) == MaxSecrets || !ValidSecretName(name) ||
			slices.ContainsFunc(p.Secrets, func(s NamedSecret) bool { return s.Name == name }) {
			return p, fmt.Errorf("secret %.64q is one too many, invalid or given twice", name)
		}
		p.Secrets = append(p.Secrets, NamedSecret{name, secret.Copy(value)})
	}
	return p, r.err
}

// fieldReader walks length-prefixed fields.
type fieldReader struct {
	rest []byte
	err  error
}

func (r *fieldReader) next() []byte {
	if r.err != nil {
		return nil
	}
	if len(r.rest) < 4 {
		r.err = fmt.Errorf("truncated")
		return nil
	}
	n := binary.LittleEndian.Uint32(r.rest)
	if uint64(n) > uint64(len(r.rest)-4) {
		r.err = fmt.Errorf("field of %d bytes, %d left", n, len(r.rest)-4)
		return nil
	}
	f := r.rest[4 : 4+n]
	r.rest = r.rest[4+n:]
	return f
}

func (r *fieldReader) number() uint64 {
	f := r.next()
	if r.err == nil && len(f) != 8 {
		r.err = fmt.Errorf("number of %d bytes", len(f))
	}
	if r.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(f)
}
