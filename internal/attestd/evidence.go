package attestd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// clockSkew is how far a statement for a policy server begins in the past.
const clockSkew = time.Minute

// Evidence is what a program shows a policy server (platform attestd-program):
// the statement of the operation key, the chain of the key that made it, and a
// signature by the program's own key over wire.AttestdCertified, which is good
// for one exchange. As JSON in this order.
type Evidence struct {
	Program   string   `json:"program"`
	SPKI      []byte   `json:"spki"`       // of the program's key, DER
	NotBefore int64    `json:"not_before"` // of the statement, Unix seconds
	NotAfter  int64    `json:"not_after"`
	Statement []byte   `json:"statement"` // the attester's signature over wire.AttestdStatement
	Chain     [][]byte `json:"chain"`     // DER: the attester's admission certificate, its issuer's
	Signature []byte   `json:"signature"` // the program's, Ed25519
}

// MakeEvidence makes evidence about a program whose key is own, by the key of
// the VM's certificate, for one exchange.
func MakeEvidence(attester crypto.Signer, chain [][]byte, program Program, own ed25519.PrivateKey, reportData [64]byte, now time.Time) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(own.Public())
	if err != nil {
		return nil, err
	}
	e := &Evidence{Program: program.String(), SPKI: spki, Chain: chain, NotBefore: now.Add(-clockSkew).Unix(), NotAfter: now.Add(keyValidity - clockSkew).Unix()}
	name := []byte(e.Program)
	if _, e.Statement, err = sign(attester, wire.AttestdStatement(name, spki, e.NotBefore, e.NotAfter)); err != nil {
		return nil, err
	}
	e.Signature = ed25519.Sign(own, wire.AttestdCertified(name, reportData))
	return json.Marshal(e)
}

// ParseEvidence reads what MakeEvidence wrote, and nothing else.
func ParseEvidence(b []byte) (*Evidence, error) {
	e := new(Evidence)
	if len(b) > wire.MaxReport {
		return nil, fmt.Errorf("evidence of %d bytes", len(b))
	}
	if err := strictjson.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("evidence of a program: %w", err)
	}
	if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("evidence of a program: not in canonical form")
	}
	return e, nil
}

// Verify checks both signatures. attester is the key of the certificate that
// the chain begins with, which the caller has verified.
func (e *Evidence) Verify(attester crypto.PublicKey, reportData [64]byte, now time.Time) error {
	program, err := ParseProgram(e.Program)
	if err != nil {
		return err
	}
	if e.NotAfter-e.NotBefore > int64(keyValidity/time.Second) {
		return errors.New("the statement is valid for longer than an hour")
	}
	pub, err := VerifyStatement(attester, program, e.SPKI, e.NotBefore, e.NotAfter, e.Statement, now)
	if err != nil {
		return fmt.Errorf("the attester's statement: %w", err)
	}
	own, ok := pub.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(own, wire.AttestdCertified([]byte(e.Program), reportData), e.Signature) {
		return errors.New("the program's signature over this exchange is wrong")
	}
	return nil
}

// certify makes a program's certification request, or its evidence for the
// exchange whose transcript's hash the program gives.
func (s *Server) certify(ctx context.Context, root *secret.Bytes, p *peer, r *Request, data *secret.Bytes) (*Response, error) {
	own, err := programKey(root, p.program.String(), scopeByte(r.Scope), p.uid)
	if err != nil {
		return nil, err
	}
	defer clear(own)
	if data.Len() == 0 {
		csr, err := admission.NewCSR(own)
		return &Response{CSR: csr}, err
	}
	if data.Len() != 64 {
		return nil, code.Wrap(code.AttestdMalformed, fmt.Errorf("transcript of %d bytes", data.Len()))
	}
	signer, chain, err := s.identity(ctx)
	if err != nil {
		return nil, err
	}
	report, err := MakeEvidence(signer, chain, p.program, own, [64]byte(data.Bytes()), s.o.Now())
	return &Response{Platform: platform.AttestdProgram, Report: report}, err
}
