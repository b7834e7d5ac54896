package claim

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// MaxSignedClaim bounds a claim that travels alone, in bytes.
const MaxSignedClaim = 16 << 10

const claimMagic = "attestbox-claim 1"

// SignedClaim is one claim that travels alone, with its speaker's key. It was
// parsed, not verified: its text is four lines and the signature.
//
//	attestbox-claim 1
//	domain bank.example
//	key policyKey ed25519 MCow...
//	Key[ed25519, policyKey, 3f...] says Key[...] is-trusted-for-serving Role["key-server"]; claim 7 from ... to ...
//	signature ed25519 ...
type SignedClaim struct {
	Domain  string
	Speaker KeyDecl
	Claim   Claim

	text []byte
	alg  string
	sig  []byte
}

// SignClaim signs a claim that speaker makes in a domain; speakerName is the
// name of key in it. The claim's speaker is set, its number and time must be.
func SignClaim(domain, speakerName string, key crypto.Signer, c Claim) (*SignedClaim, error) {
	k, err := KeyOf(speakerName, key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing claim: %w", err)
	}
	c.Statement.Speaker = k
	spki, err := marshalSPKI(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing claim: %w", err)
	}
	s := &SignedClaim{Domain: domain, Speaker: KeyDecl{Key: k, SPKI: spki}, Claim: c}
	s.text = s.format()
	if s.alg, s.sig, err = sign(key, wire.ClaimMessage(s.text)); err != nil {
		return nil, fmt.Errorf("signing claim: %w", err)
	}
	return ParseSignedClaim(s.Marshal())
}

func (s *SignedClaim) format() []byte {
	return []byte(claimMagic + "\ndomain " + s.Domain + "\n" + Item{Key: &s.Speaker}.String() + "\n" + s.Claim.String() + "\n")
}

// Marshal is the exact inverse of ParseSignedClaim.
func (s *SignedClaim) Marshal() []byte {
	return append(bytes.Clone(s.text), signatureLine(s.alg, s.sig)...)
}

// ParseSignedClaim reads a claim that travels alone. Only the canonical form is
// accepted. What it says counts after Verify alone.
func ParseSignedClaim(b []byte) (*SignedClaim, error) {
	s, err := parseSignedClaim(b)
	if err != nil {
		return nil, code.Wrap(code.ClaimMalformed, fmt.Errorf("reading signed claim: %w", err))
	}
	return s, nil
}

func parseSignedClaim(b []byte) (*SignedClaim, error) {
	if len(b) > MaxSignedClaim {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), MaxSignedClaim)
	}
	text, alg, sig, err := splitSigned(b)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 5 || lines[0] != claimMagic {
		return nil, fmt.Errorf("want %q, domain, key and claim, each on its line", claimMagic)
	}
	s := &SignedClaim{text: text, alg: alg, sig: sig}
	domain, ok := strings.CutPrefix(lines[1], "domain ")
	if !ok || !ValidDomain(domain) {
		return nil, errors.New("the second line does not name a domain")
	}
	s.Domain = domain
	f := strings.Split(lines[2], " ")
	if len(f) != 4 || f[0] != "key" {
		return nil, errors.New("the third line does not declare a key")
	}
	if s.Speaker.SPKI, err = decodeBase64(f[3], maxSPKI); err != nil {
		return nil, err
	}
	if s.Speaker.Key, err = KeyOfSPKI(f[1], s.Speaker.SPKI); err != nil {
		return nil, err
	}
	if s.Claim, err = parseClaim(lines[3], &scope{}); err != nil {
		return nil, err
	}
	switch {
	case s.Claim.Draft():
		return nil, errors.New("the claim has no number and time")
	case s.Claim.Statement.Speaker != s.Speaker.Key:
		return nil, errors.New("the claim's speaker is not the declared key")
	case !bytes.Equal(s.format(), text) || base64.StdEncoding.EncodeToString(sig) == "":
		return nil, ErrCanonical
	}
	return s, nil
}

// VerifiedClaim is a claim whose signature by a known key has been verified.
// Only SignedClaim.Verify makes one. Whether that key may say it is not judged.
type VerifiedClaim struct {
	domain string
	claim  Claim
}

// Verify checks the claim's signature by key, which the caller knows from
// elsewhere: the key that came with the claim counts for nothing.
func (s *SignedClaim) Verify(key crypto.PublicKey) (*VerifiedClaim, error) {
	k, err := KeyOf(s.Speaker.Key.Name, key)
	if err != nil {
		return nil, code.Wrap(code.ClaimSignature, fmt.Errorf("verifying claim: %w", err))
	}
	if !k.Same(s.Speaker.Key) {
		return nil, code.Wrap(code.ClaimSignature, fmt.Errorf("verifying claim: %s says it, not %s", s.Speaker.Key, k))
	}
	if err := verify(key, s.alg, wire.ClaimMessage(s.text), s.sig); err != nil {
		return nil, code.Wrap(code.ClaimSignature, fmt.Errorf("verifying claim: %w", err))
	}
	return &VerifiedClaim{s.Domain, s.Claim}, nil
}

// Domain is the domain that the claim is made in.
func (v *VerifiedClaim) Domain() string { return v.domain }

// Claim is what was said.
func (v *VerifiedClaim) Claim() Claim { return v.claim }

// Serves is for whoever has the policy key but not the policy, such as a VM at
// boot: it says whether the claim, verified with the policy key, trusts the key
// with this SPKI hash to serve as role in domain at now. Revocations are in the
// policy and cannot be seen here; let such claims live briefly.
func (v *VerifiedClaim) Serves(domain string, spki [32]byte, role string, now time.Time) error {
	c := v.claim.Statement.Clause
	k, ok := c.Subject.(Key)
	switch {
	case v.domain != domain:
		return code.Wrap(code.ClaimScope, fmt.Errorf("the claim is made in domain %s, not %s", v.domain, domain))
	case c.Verb != IsTrustedForServing || !ok || k.ID != fmt.Sprintf("%x", spki) || c.Object.String() != (Role{role}).String():
		return code.Wrap(code.ClaimScope, fmt.Errorf("the claim does not trust this key to serve as %s: %s", role, c))
	case !v.claim.InForce(now):
		return code.Wrap(code.ClaimExpired, fmt.Errorf("the claim is in force from %s to %s", v.claim.NotBefore.Format(stamp), v.claim.NotAfter.Format(stamp)))
	}
	return nil
}
