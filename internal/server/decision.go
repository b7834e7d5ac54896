package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"unicode"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// What a decision was.
const (
	Released = "released"
	Refused  = "refused"
	Later    = "later"
	Recorded = "recorded" // an outcome
	Admitted = "admitted" // a certificate was issued
	Served   = "served"   // a request of keys
	Approved = "approved" // a bundle may start
)

// Finding is one field of the evidence: what was found and what was wanted.
type Finding struct {
	Field string    `json:"field"`
	Found string    `json:"found"`
	Want  string    `json:"want,omitempty"`
	Code  code.Code `json:"code,omitempty"`
	Note  string    `json:"note,omitempty"`
}

// Decision is what the verifier decided in one exchange, and why. It holds no
// secret; the guest learns its code alone.
type Decision struct {
	Time          string    `json:"time"` // RFC 3339
	Exchange      string    `json:"exchange"`
	Protocol      string    `json:"protocol,omitempty"`
	Peer          string    `json:"peer"`
	Domain        string    `json:"domain,omitempty"`
	Policy        uint64    `json:"policy,omitempty"` // version that it was decided by
	Role          string    `json:"role,omitempty"`   // that was asked for
	ID            string    `json:"id,omitempty"`
	Decision      string    `json:"decision"`
	Code          code.Code `json:"code,omitempty"` // the verifier's own reason
	Sent          code.Code `json:"sent,omitempty"` // what the guest was told
	Reason        string    `json:"reason,omitempty"`
	Root          string    `json:"root,omitempty"` // what the evidence was traced to
	Chip          string    `json:"chip,omitempty"`
	ReportID      string    `json:"report_id,omitempty"`
	Measurement   string    `json:"measurement,omitempty"`
	Boot          uint64    `json:"boot,omitempty"`
	Bundle        string    `json:"bundle,omitempty"` // digest of the bundle that the VM starts or started
	Outcome       string    `json:"outcome,omitempty"`
	Serial        string    `json:"serial,omitempty"`  // of the certificate that was issued or shown
	Subject       string    `json:"subject,omitempty"` // SHA-256 of the certified key
	Op            string    `json:"op,omitempty"`      // of keys
	Secret        string    `json:"secret,omitempty"`  // its name
	Version       uint64    `json:"version,omitempty"` // of the secret
	BundleVersion uint64    `json:"bundle_version,omitempty"`
	Claim         uint64    `json:"claim,omitempty"` // serial of the claim that allowed it
	Proof         string    `json:"-"`               // in the audit log only
	ProofDigest   string    `json:"proof_digest,omitempty"`
	Alert         string    `json:"alert,omitempty"`
	Checked       int       `json:"checked,omitempty"`  // fields that were looked at
	Findings      []Finding `json:"findings,omitempty"` // those that refused
	Millis        float64   `json:"ms,omitempty"`
}

// Bounds of the decision log: each of decisionFiles files holds up to
// decisionBytes; one decision up to maxDecision.
const (
	decisionBytes = 4 << 20
	decisionFiles = 4
	maxDecision   = 32 << 10
	maxFindings   = 64
	maxText       = 512
)

// DecisionLog keeps decisions in a file of JSON lines, and the files before it
// as .1, .2 and so on. Under a flood old decisions go first: the log explains,
// it is not an audit trail.
type DecisionLog struct {
	mu   sync.Mutex
	path string
	f    *os.File
	size int64
}

// OpenDecisionLog opens or makes the log, mode 0600.
func OpenDecisionLog(path string) (*DecisionLog, error) {
	l := &DecisionLog{path: path}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *DecisionLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the decision log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("opening the decision log: %w", err)
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Close closes the file.
func (l *DecisionLog) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// Record appends one decision.
func (l *DecisionLog) Record(d *Decision) error {
	if l == nil {
		return nil
	}
	b, err := json.Marshal(d.bounded())
	if err != nil {
		return err
	}
	if len(b) > maxDecision {
		short := *d
		short.Findings, short.Reason = nil, "too long to record"
		if b, err = json.Marshal(short.bounded()); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(b)) > decisionBytes {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(append(b, '\n'))
	l.size += int64(n)
	return err
}

func (l *DecisionLog) rotate() error {
	for i := decisionFiles - 2; i >= 0; i-- {
		if err := os.Rename(l.name(i), l.name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotating the decision log: %w", err)
		}
	}
	old := l.f
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

func (l *DecisionLog) name(i int) string { return decisionFile(l.path, i) }

func decisionFile(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}

// bounded cuts what a peer could make long.
func (d *Decision) bounded() *Decision {
	c := *d
	for _, text := range []*string{&c.Reason, &c.Alert, &c.Root, &c.Domain, &c.Role, &c.Op, &c.Secret, &c.Outcome, &c.Peer} {
		*text = cut(*text)
	}
	c.Findings = nil
	for _, f := range d.Findings[:min(len(d.Findings), maxFindings)] {
		f.Found, f.Want, f.Note = cut(f.Found), cut(f.Want), cut(f.Note)
		c.Findings = append(c.Findings, f)
	}
	return &c
}

// cut bounds a text and takes out what would move a terminal's cursor: peers
// choose names in certificates, and people read them in a terminal.
func cut(s string) string {
	long := len(s) > maxText
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s[:min(len(s), maxText)])
	if long {
		s += "..."
	}
	return s
}

// FindDecisions returns the decisions of one exchange, oldest first: an
// exchange may have one about the release and one about the outcome.
func FindDecisions(path string, exchange wire.ExchangeID) ([]Decision, error) {
	var found []Decision
	err := EachDecision(path, func(d *Decision) {
		if d.Exchange == exchange.String() {
			found = append(found, *d)
		}
	})
	return found, err
}

// EachDecision walks the log, oldest first. A line that a crash cut short is
// passed over.
func EachDecision(path string, f func(*Decision)) error {
	for i := decisionFiles - 1; i >= 0; i-- {
		file, err := os.Open(decisionFile(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the decision log: %w", err)
		}
		sc := bufio.NewScanner(io.LimitReader(file, decisionBytes+maxDecision+1))
		sc.Buffer(make([]byte, 0, 4096), maxDecision+1024)
		for sc.Scan() {
			var d Decision
			if json.Unmarshal(sc.Bytes(), &d) == nil {
				f(&d)
			}
		}
		err = sc.Err()
		file.Close()
		if err != nil {
			return fmt.Errorf("reading the decision log: %w", err)
		}
	}
	return nil
}
