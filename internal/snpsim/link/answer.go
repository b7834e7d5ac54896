package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Answer is what the secure processor and its host give back for one request.
type Answer struct {
	// ExitInfo is VMM error << 32 | firmware error, 0 for success: what Linux
	// shows as exitinfo2.
	ExitInfo uint64
	// Needed is the room for certificates that was missing, in bytes.
	Needed uint32
	// Message is MSG_REPORT_RSP or MSG_KEY_RSP, empty on error.
	Message []byte
	// Certs is the table of certificates, padded to pages, for an extended
	// report with room for it.
	Certs []byte
}

// VMM errors, in the upper half of ExitInfo (publication 56421).
const (
	ErrInvalidLength = uint64(1) << 32
	ErrBusy          = uint64(2) << 32
)

// Marshal gives the body of an answer.
func (a *Answer) Marshal() []byte {
	b := make([]byte, 0, answerHead+len(a.Message)+len(a.Certs))
	b = binary.LittleEndian.AppendUint64(b, a.ExitInfo)
	b = binary.LittleEndian.AppendUint32(b, a.Needed)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.Message)))
	b = append(b, a.Message...)
	return append(b, a.Certs...)
}

// ParseAnswer reads the body of an answer to a request of the given kind.
func ParseAnswer(kind byte, b []byte) (*Answer, error) {
	if len(b) < answerHead || len(b) > maxRspBody {
		return nil, fmt.Errorf("parsing an answer: %d bytes", len(b))
	}
	a := &Answer{ExitInfo: binary.LittleEndian.Uint64(b), Needed: binary.LittleEndian.Uint32(b[8:])}
	n := binary.LittleEndian.Uint32(b[12:])
	rest := b[answerHead:]
	if uint64(n) > uint64(len(rest)) {
		return nil, fmt.Errorf("parsing an answer: message of %d bytes in %d", n, len(rest))
	}
	if n > 0 {
		a.Message = bytes.Clone(rest[:n])
	}
	if rest = rest[n:]; len(rest) > 0 {
		a.Certs = bytes.Clone(rest)
	}
	want := ReportRspSize
	if kind == KindKey {
		want = KeyRspSize
	}
	switch {
	case kind != KindReport && kind != KindExtReport && kind != KindKey:
		return nil, fmt.Errorf("parsing an answer: no request of kind %#x", kind)
	case a.ExitInfo != 0 && (len(a.Message) != 0 || len(a.Certs) != 0):
		return nil, fmt.Errorf("parsing an answer: a message beside error %#x", a.ExitInfo)
	case a.ExitInfo == 0 && len(a.Message) != want:
		return nil, fmt.Errorf("parsing an answer: message of %d bytes, want %d", len(a.Message), want)
	case kind != KindExtReport && len(a.Certs) != 0,
		len(a.Certs) > MaxCerts, len(a.Certs)%PageSize != 0:
		return nil, fmt.Errorf("parsing an answer: %d bytes of certificates", len(a.Certs))
	case (a.Needed != 0) != (a.ExitInfo == ErrInvalidLength), a.Needed%PageSize != 0, a.Needed > MaxCerts:
		return nil, fmt.Errorf("parsing an answer: %d bytes needed with error %#x", a.Needed, a.ExitInfo)
	}
	return a, nil
}

// CheckRequest checks the shape of a request's body.
func CheckRequest(kind byte, body []byte) error {
	ok := false
	switch kind {
	case KindReport:
		ok = len(body) == ReportReqSize
	case KindExtReport:
		if len(body) == ReportReqSize+4 {
			room := binary.LittleEndian.Uint32(body[ReportReqSize:])
			ok = room%PageSize == 0 && room <= MaxCerts
		}
	case KindKey:
		ok = len(body) == KeyReqSize || len(body) == KeyReqSizeV2
	}
	if !ok {
		return fmt.Errorf("request of kind %#x with %d bytes has a wrong shape", kind, len(body))
	}
	return nil
}
