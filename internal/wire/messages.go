package wire

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/strictjson"
)

// Hex32 is 32 bytes, written as 64 lower-case hex digits: instance IDs,
// nonces, REPORT_IDs.
type Hex32 [32]byte

// MarshalText writes lower-case hex.
func (h Hex32) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads exactly 64 lower-case hex digits.
func (h *Hex32) UnmarshalText(b []byte) error { return unhex(h[:], b) }

func (h Hex32) String() string { return hex.EncodeToString(h[:]) }

// IsZero says whether all bytes are zero; such an instance ID is refused.
func (h Hex32) IsZero() bool { return h == Hex32{} }

// ExchangeID names one exchange in the logs of both ends: 16 bytes, hex.
type ExchangeID [16]byte

// MarshalText writes lower-case hex.
func (e ExchangeID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, e[:]), nil }

// UnmarshalText reads exactly 32 lower-case hex digits.
func (e *ExchangeID) UnmarshalText(b []byte) error { return unhex(e[:], b) }

func (e ExchangeID) String() string { return hex.EncodeToString(e[:]) }

func unhex(dst, src []byte) error {
	if len(src) != 2*len(dst) {
		return fmt.Errorf("%d hex digits, want %d", len(src), 2*len(dst))
	}
	for _, c := range src {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%q is not a lower-case hex digit", c)
		}
	}
	_, err := hex.Decode(dst, src)
	return err
}

// Message is one of the types below.
type Message interface{ kind() string }

// Begin opens an exchange (guest to verifier).
type Begin struct {
	Type    string `json:"type"`
	Version int    `json:"version"`
	ID      Hex32  `json:"id"`
	Suite   string `json:"suite"` // SuiteID in hex
	Key     []byte `json:"key"`   // HPKE public key made for this exchange
}

// Challenge carries the nonce (verifier to guest).
type Challenge struct {
	Type     string     `json:"type"`
	Exchange ExchangeID `json:"exchange"`
	Nonce    Hex32      `json:"nonce"`
}

// Evidence answers the challenge (guest to verifier).
type Evidence struct {
	Type         string        `json:"type"`
	Platform     string        `json:"platform"`
	Report       []byte        `json:"report"`
	Endorsements []Endorsement `json:"endorsements"`
}

// Release carries the sealed payload (verifier to guest).
type Release struct {
	Type   string `json:"type"`
	Sealed []byte `json:"sealed"` // HPKE: encapsulated key, then ciphertext
}

// Refused ends an exchange for good (verifier to guest). The code is all that
// the guest learns; the reason is in the verifier's log under the exchange.
type Refused struct {
	Type     string     `json:"type"`
	Exchange ExchangeID `json:"exchange"`
	Code     code.Code  `json:"code"`
}

// Later asks the guest to come back (verifier to guest).
type Later struct {
	Type     string     `json:"type"`
	Exchange ExchangeID `json:"exchange"`
	Code     code.Code  `json:"code"`
	Seconds  int        `json:"seconds"` // 1 to MaxLater
}

// Results of a boot, as an outcome names them.
const (
	ResultOpened = "opened"
	ResultFailed = "failed"
)

// Outcome reports how the released key was used (guest to verifier), on the
// same connection or as the first message of a later one.
type Outcome struct {
	Type     string    `json:"type"`
	ID       Hex32     `json:"id"`
	ReportID Hex32     `json:"report_id"`
	Boot     uint64    `json:"boot"`
	Result   string    `json:"result"`  // ResultOpened or ResultFailed
	Reason   code.Code `json:"reason"`  // empty when opened
	Headers  []Hex32   `json:"headers"` // digests of the headers that were opened
	MAC      Hex32     `json:"mac"`     // see OutcomeMAC
}

// Ack confirms an outcome durably recorded (verifier to guest).
type Ack struct {
	Type             string     `json:"type"`
	Exchange         ExchangeID `json:"exchange"`
	Boot             uint64     `json:"boot"`
	Time             int64      `json:"time"` // the verifier's clock, Unix seconds
	MinPolicyVersion uint64     `json:"min_policy_version"`
}

func (*Begin) kind() string     { return "begin" }
func (*Challenge) kind() string { return "challenge" }
func (*Evidence) kind() string  { return "evidence" }
func (*Release) kind() string   { return "release" }
func (*Refused) kind() string   { return "refused" }
func (*Later) kind() string     { return "later" }
func (*Outcome) kind() string   { return "outcome" }
func (*Ack) kind() string       { return "ack" }

// Marshal writes a message's JSON, with its type filled in.
func Marshal(m Message) ([]byte, error) {
	switch m := m.(type) {
	case *Begin:
		m.Type = m.kind()
	case *Challenge:
		m.Type = m.kind()
	case *Evidence:
		m.Type = m.kind()
		if m.Endorsements == nil {
			m.Endorsements = []Endorsement{}
		}
	case *Release:
		m.Type = m.kind()
	case *Refused:
		m.Type = m.kind()
	case *Later:
		m.Type = m.kind()
	case *Outcome:
		m.Type = m.kind()
		if m.Headers == nil {
			m.Headers = []Hex32{}
		}
	case *Ack:
		m.Type = m.kind()
	case *CertifyBegin:
		m.Type = m.kind()
	case *Admission:
		m.Type = m.kind()
	case *KeyRequest:
		m.Type = m.kind()
		if m.Value == nil {
			m.Value = []byte{}
		}
		if m.Key == nil {
			m.Key = []byte{}
		}
	case *KeyReply:
		m.Type = m.kind()
		if m.Value == nil {
			m.Value = []byte{}
		}
		if m.Names == nil {
			m.Names = []KeyName{}
		}
	case *MaintainBegin:
		m.Type = m.kind()
	case *MaintainState:
		m.Type = m.kind()
		m.Headers, m.Allowed, m.Nominations = list(m.Headers), list(m.Allowed), list(m.Nominations)
	case *RegisterHeaders:
		m.Type = m.kind()
		m.Add, m.Drop = list(m.Add), list(m.Drop)
	case *Rotate:
		m.Type = m.kind()
	case *RotateEnd:
		m.Type = m.kind()
	case *Nominate:
		m.Type = m.kind()
	case *BundleBegin:
		m.Type = m.kind()
	case *BundleApproved:
		m.Type = m.kind()
	}
	return json.Marshal(m)
}

// list is a list that JSON shows as one, even if it is empty.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// Parse reads one message, strictly, and checks what can be checked of it
// alone. Every error is ErrMalformed.
func Parse(body []byte) (Message, error) {
	var head struct {
		Type string `json:"type"`
	}
	// Only to choose the type; the strict reading below sees the same bytes.
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	var m Message
	switch head.Type {
	case "begin":
		m = new(Begin)
	case "challenge":
		m = new(Challenge)
	case "evidence":
		m = new(Evidence)
	case "release":
		m = new(Release)
	case "refused":
		m = new(Refused)
	case "later":
		m = new(Later)
	case "outcome":
		m = new(Outcome)
	case "ack":
		m = new(Ack)
	case "certify-begin":
		m = new(CertifyBegin)
	case "admission":
		m = new(Admission)
	case "key-request":
		m = new(KeyRequest)
	case "key-reply":
		m = new(KeyReply)
	case "maintain-begin":
		m = new(MaintainBegin)
	case "maintain-state":
		m = new(MaintainState)
	case "register-headers":
		m = new(RegisterHeaders)
	case "rotate":
		m = new(Rotate)
	case "rotate-end":
		m = new(RotateEnd)
	case "nominate":
		m = new(Nominate)
	case "bundle-begin":
		m = new(BundleBegin)
	case "bundle-approved":
		m = new(BundleApproved)
	default:
		return nil, fmt.Errorf("%w: unknown type %.32q", ErrMalformed, head.Type)
	}
	if err := strictjson.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrMalformed, head.Type, err)
	}
	if err := check(m, body); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrMalformed, head.Type, err)
	}
	return m, nil
}

// Read reads one frame and parses it.
func Read(r io.Reader) (Message, error) {
	body, err := ReadFrame(r)
	if err != nil {
		return nil, err
	}
	return Parse(body)
}

// Write marshals a message into one frame.
func Write(w io.Writer, m Message) error {
	body, err := Marshal(m)
	if err != nil {
		return err
	}
	return WriteFrame(w, body)
}

// Expect reads one message of type T. Refused and Later come back as
// *AnswerError; anything else unexpected is ErrMalformed.
func Expect[T Message](r io.Reader) (T, error) {
	var none T
	m, err := Read(r)
	if err != nil {
		return none, err
	}
	switch m := m.(type) {
	case T:
		return m, nil
	case *Refused:
		return none, &AnswerError{Exchange: m.Exchange, Code: m.Code}
	case *Later:
		return none, &AnswerError{Exchange: m.Exchange, Code: m.Code, Seconds: m.Seconds}
	}
	return none, fmt.Errorf("%w: got %s, want %s", ErrMalformed, m.kind(), none.kind())
}

// AnswerError is a refusal (Seconds 0) or a request to come back later.
type AnswerError struct {
	Exchange ExchangeID
	Code     code.Code
	Seconds  int
}

func (e *AnswerError) Error() string {
	if e.Seconds > 0 {
		return fmt.Sprintf("verifier asks to come back in %d s (%s, exchange %s)", e.Seconds, e.Code, e.Exchange)
	}
	return fmt.Sprintf("verifier refused (%s, exchange %s)", e.Code, e.Exchange)
}
