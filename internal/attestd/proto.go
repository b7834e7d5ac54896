package attestd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/form"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Version is the protocol version that the challenge names.
const Version = 1

// Operations.
const (
	OpWhoami      = "whoami"      // who the caller is to attestd
	OpAttest      = "attest"      // evidence over the program and the caller's data
	OpSeal        = "seal"        // encrypt for this program
	OpUnseal      = "unseal"      // the reverse
	OpCertificate = "certificate" // the VM's admission certificate and its issuer's
	OpSign        = "sign"        // sign with the authentication key, or the program's
	OpKey         = "key"         // the program's own public key, and the statement for it
	OpCertify     = "certify"     // its certification request, or its evidence for a policy server
)

// Scopes of what is sealed and of program keys.
const (
	ScopeUser    = "user"    // this program, run by this user; the default
	ScopeProgram = "program" // this program, run by any user
)

// Keys that sign.
const (
	KeyAuthentication = "authentication" // the VM's; the default
	KeyProgram        = "program"        // the program's own
)

// Limits, in bytes.
const (
	MaxRequest  = 4 << 10  // JSON of a request
	MaxResponse = 64 << 10 // JSON of a response
	MaxData     = 32 << 10 // raw bytes, before sealing
	MaxContext  = 128
	maxBody     = MaxData + SealOverhead
)

// ErrMalformed is what does not follow the protocol.
var ErrMalformed = errors.New("malformed message")

// Challenge opens every connection.
type Challenge struct {
	Type    string     `json:"type"` // "challenge"
	Version int        `json:"version"`
	Nonce   wire.Hex32 `json:"nonce"`
}

// Request is one request. Which fields an operation takes:
//
//	whoami, certificate: none
//	attest:  data
//	seal:    data; optional context, scope
//	unseal:  data; the same context
//	sign:    data, context; optional key; with key "program" optional scope
//	key:     optional scope
//	certify: optional scope; data: none, or the 64 bytes of the transcript
type Request struct {
	Op    string     `json:"op"`
	Nonce wire.Hex32 `json:"nonce"`
	// Context says what the data is for: 1 to 128 characters of A-Z a-z 0-9
	// and ._:/@- beginning with a letter or digit.
	Context string `json:"context,omitempty"`
	Scope   string `json:"scope,omitempty"`
	Key     string `json:"key,omitempty"`
	Size    int    `json:"size,omitempty"` // of the data that follows
}

// Response is the answer to one request. An error has Code and Error only.
type Response struct {
	Type string `json:"type"` // the operation, or "error"

	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`

	// Program is who the caller is; in every answer that is no error.
	Program string `json:"program,omitempty"`

	// whoami
	PID int    `json:"pid,omitempty"`
	UID *int   `json:"uid,omitempty"`
	Why string `json:"why,omitempty"` // the program is unmeasured

	// attest, certify with data
	Platform     string             `json:"platform,omitempty"`
	Report       []byte             `json:"report,omitempty"`
	Endorsements []wire.Endorsement `json:"endorsements,omitempty"`

	// certificate, sign, key: DER, the VM's first
	Chain [][]byte `json:"chain,omitempty"`

	// sign, key
	Alg       string `json:"alg,omitempty"`
	Signature []byte `json:"signature,omitempty"` // over wire.AttestdSigned or AttestdStatement

	// key, and sign with the program's key
	SPKI      []byte `json:"spki,omitempty"`
	NotBefore int64  `json:"not_before,omitempty"` // Unix seconds
	NotAfter  int64  `json:"not_after,omitempty"`

	// certify without data: PKCS#10, DER
	CSR []byte `json:"csr,omitempty"`

	Size int `json:"size,omitempty"` // seal, unseal: bytes that follow
}

// ValidContext says whether a context has its form.
func ValidContext(s string) bool {
	return len(s) <= MaxContext && form.Word(s, form.Chars("A-Za-z0-9"), form.Chars("A-Za-z0-9._:/@-"))
}

// check is the syntax of a request: which fields its operation takes.
func (r *Request) check() error {
	var data, context, scope, key bool
	limit := MaxData
	switch r.Op {
	case OpWhoami, OpCertificate:
	case OpAttest:
		data = true
	case OpSeal:
		data, context, scope = true, true, true
	case OpUnseal:
		data, context, limit = true, true, maxBody
	case OpSign:
		data, context, key, scope = true, true, true, r.Key == KeyProgram
		if r.Context == "" {
			return fmt.Errorf("%w: sign needs a context", ErrMalformed)
		}
	case OpKey:
		scope = true
	case OpCertify:
		data, scope, limit = true, true, 64
		if r.Size != 0 && r.Size != 64 {
			return fmt.Errorf("%w: certify with %d bytes of data, want 64 or none", ErrMalformed, r.Size)
		}
	default:
		return fmt.Errorf("%w: operation %.32q", ErrMalformed, r.Op)
	}
	switch {
	case r.Size < 0 || r.Size > limit || !data && r.Size != 0:
		return fmt.Errorf("%w: %s with %d bytes of data", ErrMalformed, r.Op, r.Size)
	case r.Context != "" && (!context || !ValidContext(r.Context)):
		return fmt.Errorf("%w: %s with context %.40q", ErrMalformed, r.Op, r.Context)
	case r.Scope != "" && (!scope || r.Scope != ScopeUser && r.Scope != ScopeProgram):
		return fmt.Errorf("%w: %s with scope %.40q", ErrMalformed, r.Op, r.Scope)
	case r.Key != "" && (!key || r.Key != KeyAuthentication && r.Key != KeyProgram):
		return fmt.Errorf("%w: %s with key %.40q", ErrMalformed, r.Op, r.Key)
	}
	return nil
}

// ParseRequest reads the JSON of one request.
func ParseRequest(b []byte) (*Request, error) {
	r := new(Request)
	if err := strictjson.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// readFrame reads one frame of at most max bytes. Nothing is allocated for a
// larger one; a clean end before the first byte is io.EOF.
func readFrame(r io.Reader, max int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(max) {
		return nil, fmt.Errorf("%w: frame of %d bytes, allowed are 1 to %d", ErrMalformed, n, max)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body, nil
}

// frame is a message as it goes over the socket.
func frame(v any, max int) ([]byte, error) {
	js, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(js) > max {
		return nil, fmt.Errorf("message of %d bytes, at most %d", len(js), max)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(js))), js...), nil
}
