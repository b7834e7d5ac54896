package wire

import (
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/form"
)

// The keys protocol (ALPN attestbox-keys/1): mutual TLS with admission
// certificates; then any number of requests, each answered in order. A watch is
// answered at once and again whenever the secret changes, until the client
// closes the connection or its certificate or the policy ends.

// Operations of a key request.
const (
	OpGet    = "get"
	OpPut    = "put"
	OpList   = "list"
	OpRotate = "rotate" // the server generates a new version of the given type
	OpDelete = "delete"
	OpWatch  = "watch"
	OpRewrap = "rewrap" // recovery of a store: value is an escrow record, key an HPKE public key
)

// MaxKeyValue bounds a secret's value, in bytes.
const MaxKeyValue = 32 << 10

// MaxKeyName bounds a secret's name: segments of ValidSecretName joined by "/".
const MaxKeyName = 256

// KeyRequest asks for one operation (client to key server).
type KeyRequest struct {
	Type    string `json:"type"`
	Op      string `json:"op"`
	Name    string `json:"name"`    // list: a pattern, "*" matches within one "/"
	Version uint64 `json:"version"` // 0: the latest; put: 0 is latest + 1; delete: 0 is all
	Kind    string `json:"kind"`    // put: the entry's type; rotate: the algorithm to generate, "" is as before
	Value   []byte `json:"value"`
	Key     []byte `json:"key"` // rewrap only
}

// KeyReply answers a request (key server to client). A refused request has a
// code and nothing else; the connection stays usable.
type KeyReply struct {
	Type             string     `json:"type"`
	Exchange         ExchangeID `json:"exchange"` // names the request in the server's log
	Code             code.Code  `json:"code"`     // empty: done
	Name             string     `json:"name"`
	Version          uint64     `json:"version"`
	Kind             string     `json:"kind"`
	Value            []byte     `json:"value"`
	Names            []KeyName  `json:"names"` // list only
	Time             int64      `json:"time"`
	MinPolicyVersion uint64     `json:"min_policy_version"`
}

// KeyName is one line of a list.
type KeyName struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"` // the latest
	Kind    string `json:"kind"`
}

func (*KeyRequest) kind() string { return "key-request" }
func (*KeyReply) kind() string   { return "key-reply" }

// ValidKeyName says whether a name is segments of letters, digits, "_", "." and
// "-" joined by "/", none beginning with a dot or hyphen.
func ValidKeyName(name string) bool {
	return len(name) <= MaxKeyName && form.Words(name, "/", nameFirst, nameRest)
}

func (m *KeyRequest) check() error {
	switch m.Op {
	case OpGet, OpPut, OpRotate, OpDelete, OpWatch, OpRewrap:
		if !ValidKeyName(m.Name) {
			return fmt.Errorf("name %.64q", m.Name)
		}
	case OpList:
		if len(m.Name) > MaxKeyName {
			return fmt.Errorf("pattern of %d characters", len(m.Name))
		}
	default:
		return fmt.Errorf("operation %.16q", m.Op)
	}
	if len(m.Value) > MaxKeyValue || len(m.Kind) > 32 || len(m.Key) > 4096 {
		return fmt.Errorf("value of %d bytes, kind of %d, key of %d", len(m.Value), len(m.Kind), len(m.Key))
	}
	return nil
}

func (m *KeyReply) check() error {
	if m.Code != "" {
		if err := checkCode(m.Code); err != nil {
			return err
		}
	}
	if len(m.Value) > MaxKeyValue {
		return fmt.Errorf("value of %d bytes", len(m.Value))
	}
	return nil
}
