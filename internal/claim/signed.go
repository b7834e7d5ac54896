package claim

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

var (
	// ErrDraft is a policy that cannot be signed yet.
	ErrDraft = errors.New("the policy has claims without number and time")
	// ErrRollback is a policy older than one that was in force.
	ErrRollback = errors.New("the policy is older than allowed")
	// ErrCanonical is a signed text that is not in canonical form.
	ErrCanonical = errors.New("not in canonical form")
)

// Sign makes the signed file: the canonical text and a last line with the
// signature. key is the declared policy key; version at least 1; no drafts.
func (p *Policy) Sign(key crypto.Signer) ([]byte, error) {
	text := p.Format()
	checked, err := Parse(text) // whoever built the policy by hand is checked too
	if err != nil {
		return nil, fmt.Errorf("signing policy: %w", err)
	}
	if !bytes.Equal(checked.Format(), text) { // nobody would accept it
		return nil, fmt.Errorf("signing policy: %w", ErrCanonical)
	}
	declared, _ := checked.PolicyKey()
	if k, err := KeyOf(PolicyKeyName, key.Public()); err != nil || k != declared {
		return nil, errors.New("signing policy: the key is not the one that the policy declares as " + PolicyKeyName)
	}
	if err := checked.complete(); err != nil {
		return nil, fmt.Errorf("signing policy: %w", err)
	}
	alg, sig, err := sign(key, wire.PolicyMessage(text))
	if err != nil {
		return nil, fmt.Errorf("signing policy: %w", err)
	}
	signed := append(text, signatureLine(alg, sig)...)
	if len(signed) > MaxPolicy {
		return nil, fmt.Errorf("signing policy: %d bytes, want at most %d", len(signed), MaxPolicy)
	}
	return signed, nil
}

func (p *Policy) complete() error {
	if p.Version == 0 {
		return errors.New("its version is 0")
	}
	for _, c := range p.Claims() {
		if c.Draft() {
			return fmt.Errorf("%w: %s", ErrDraft, c)
		}
	}
	return nil
}

// VerifiedPolicy is a policy whose signature has been verified. Only Verify
// makes one. It does not change.
type VerifiedPolicy struct {
	policy *Policy
	key    Key
	signed []byte
}

// Verify checks a signed file: its signature by policyKey, its form, which must
// be canonical, and that its version is at least minVersion. Errors have the
// codes policy-signature, policy-malformed and policy-rollback.
func Verify(signed []byte, policyKey crypto.PublicKey, minVersion uint64) (*VerifiedPolicy, error) {
	fail := func(c code.Code, err error) (*VerifiedPolicy, error) {
		return nil, code.Wrap(c, fmt.Errorf("verifying policy: %w", err))
	}
	if len(signed) > MaxPolicy {
		return fail(code.PolicyMalformed, fmt.Errorf("%d bytes, want at most %d", len(signed), MaxPolicy))
	}
	text, alg, sig, err := splitSigned(signed)
	if err != nil {
		return fail(code.PolicyMalformed, err)
	}
	if err := verify(policyKey, alg, wire.PolicyMessage(text), sig); err != nil {
		return fail(code.PolicySignature, err)
	}
	p, err := Parse(text)
	if err != nil {
		return fail(code.PolicyMalformed, err)
	}
	if !bytes.Equal(p.Format(), text) {
		return fail(code.PolicyMalformed, ErrCanonical)
	}
	key, err := KeyOf(PolicyKeyName, policyKey)
	if declared, _ := p.PolicyKey(); err != nil || declared != key {
		return fail(code.PolicySignature, errors.New("it declares another policy key than the one that signed it"))
	}
	if err := p.complete(); err != nil {
		return fail(code.PolicyMalformed, err)
	}
	if p.Version < minVersion {
		return fail(code.PolicyRollback, fmt.Errorf("%w: version %d, want at least %d", ErrRollback, p.Version, minVersion))
	}
	return &VerifiedPolicy{p, key, bytes.Clone(signed)}, nil
}

// Domain is the security domain.
func (v *VerifiedPolicy) Domain() string { return v.policy.Domain }

// Version is the policy's version, at least 1.
func (v *VerifiedPolicy) Version() uint64 { return v.policy.Version }

// PolicyKey is the key that signed.
func (v *VerifiedPolicy) PolicyKey() Key { return v.key }

// Signed is a copy of the signed file.
func (v *VerifiedPolicy) Signed() []byte { return bytes.Clone(v.signed) }

// Digest is the SHA-256 of the signed file.
func (v *VerifiedPolicy) Digest() [32]byte { return sha256.Sum256(v.signed) }

// Claims lists copies of the claims, in the order of the file.
func (v *VerifiedPolicy) Claims() []Claim {
	var list []Claim
	for _, c := range v.policy.Claims() {
		list = append(list, *c)
	}
	return list
}

// Keys lists the declared keys.
func (v *VerifiedPolicy) Keys() []KeyDecl {
	var list []KeyDecl
	for _, i := range v.policy.Items {
		if i.Key != nil {
			list = append(list, *i.Key)
		}
	}
	return list
}

// MeasurementName is the name that the policy declares for a digest, if any.
func (v *VerifiedPolicy) MeasurementName(digest string) string {
	for _, i := range v.policy.Items {
		if i.Measurement != nil && i.Measurement.Digest == digest {
			return i.Measurement.Name
		}
	}
	return ""
}

// Lookup gives the public key that the policy declares with k's ID; false where
// there is none.
func (v *VerifiedPolicy) Lookup(k Key) (crypto.PublicKey, bool) {
	for _, d := range v.Keys() {
		if d.Key.Same(k) {
			pub, err := d.publicKey()
			return pub, err == nil
		}
	}
	return nil, false
}

// AMD says whether the hardware roots that the policy trusts are AMD's own;
// false where it trusts none.
func (v *VerifiedPolicy) AMD() bool {
	for _, c := range v.policy.Claims() {
		if k, p, ok := c.root(); ok && p.Type == AMDSEVSNP {
			return amdProduct(k) != "" // all are, or none: Parse saw to it
		}
	}
	return false
}

// Follows says whether v may take old's place: the same domain and key, a
// greater version, no serial given anew, no claim changed under its number.
// Nil stands for no policy before.
func (v *VerifiedPolicy) Follows(old *VerifiedPolicy) error {
	if old == nil {
		return nil
	}
	switch {
	case v.Domain() != old.Domain() || v.key != old.key:
		return code.Wrap(code.PolicySignature, errors.New("the new policy is of another domain or key"))
	case v.Version() <= old.Version():
		return code.Wrap(code.PolicyRollback, fmt.Errorf("%w: version %d is to replace version %d", ErrRollback, v.Version(), old.Version()))
	case v.policy.LastSerial < old.policy.LastSerial:
		return code.Wrap(code.PolicyRollback, fmt.Errorf("%w: last-serial %d is to replace %d", ErrRollback, v.policy.LastSerial, old.policy.LastSerial))
	}
	before := map[uint64]string{}
	for _, c := range old.policy.Claims() {
		before[c.Serial] = c.String()
	}
	for _, c := range v.policy.Claims() {
		text, known := before[c.Serial]
		if known && text != c.String() {
			return code.Wrap(code.PolicyMalformed, fmt.Errorf("claim %d says something else than before", c.Serial))
		}
		if !known && c.Serial <= old.policy.LastSerial {
			return code.Wrap(code.PolicyMalformed, fmt.Errorf("claim %d is new, and its serial is not above %d", c.Serial, old.policy.LastSerial))
		}
	}
	return nil
}

// LastSerial is the greatest serial ever given to a claim of the domain.
func (v *VerifiedPolicy) LastSerial() uint64 { return v.policy.LastSerial }

// Unsigned is the text of a signed file without its signature, which is not
// looked at; a text without one is given as it is. For readers, not for trust.
func Unsigned(b []byte) []byte {
	if text, _, _, err := splitSigned(b); err == nil {
		return text
	}
	return b
}
