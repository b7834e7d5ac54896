package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"attestbox/internal/strictjson"
)

// MaxLine bounds one line, in bytes.
const MaxLine = 256 << 10

const domainLine = "attestbox/audit/1"

// Hash is the hash of a line.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads 64 lower-case hex digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 64 || bytes.ContainsFunc(b, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) {
		return errors.New("a hash has 64 lower-case hex digits")
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Head is the last line of a log: its number and its hash. The zero Head is
// that of an empty log.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Event is one line.
type Event struct {
	Seq  uint64          `json:"seq"`
	Prev Hash            `json:"prev"`
	Time string          `json:"time"` // RFC 3339, UTC
	Kind string          `json:"kind"` // lower case with hyphens
	Data json.RawMessage `json:"data"` // an object
}

var kindForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// marshal writes the line without its newline.
func (e *Event) marshal() ([]byte, error) {
	switch {
	case len(e.Kind) > 64 || !kindForm.MatchString(e.Kind):
		return nil, fmt.Errorf("kind %.64q", e.Kind)
	case len(e.Data) == 0 || e.Data[0] != '{':
		return nil, errors.New("data is not an object")
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxLine {
		return nil, fmt.Errorf("line of %d bytes, at most %d", len(b), MaxLine)
	}
	return b, nil
}

// parseLine is the inverse of marshal; it accepts no other form.
func parseLine(line []byte) (*Event, error) {
	if len(line) > MaxLine {
		return nil, fmt.Errorf("longer than %d bytes", MaxLine)
	}
	e := &Event{}
	if err := strictjson.Unmarshal(line, e); err != nil {
		return nil, err
	}
	if t, err := time.Parse(time.RFC3339Nano, e.Time); err != nil || t.UTC().Format(time.RFC3339Nano) != e.Time {
		return nil, fmt.Errorf("time %.64q", e.Time)
	}
	again, err := e.marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, line) {
		return nil, errors.New("not in the form that the log is written in")
	}
	return e, nil
}

func hashLine(line []byte) Hash {
	h := sha256.New()
	h.Write([]byte(domainLine + "\x00"))
	h.Write(line)
	return Hash(h.Sum(nil))
}
