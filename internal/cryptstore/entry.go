package cryptstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/form"
	"attestbox/internal/secret"
	"attestbox/internal/store"
)

// Limits of entries.
const (
	// MaxTag bounds a tag, in bytes.
	MaxTag = 128
	// MaxValue bounds a value, in bytes.
	MaxValue = store.MaxValue - boxOverhead
	// MaxVersion is the greatest version.
	MaxVersion = 1<<31 - 1
	// MinSymmetric and MaxSymmetric bound a symmetric key, in bytes.
	MinSymmetric, MaxSymmetric = 16, 128
)

// Sentinels, wrapped with the entry.
var (
	ErrNotFound      = errors.New("no such entry")
	ErrExists        = errors.New("exists already")
	ErrVersion       = errors.New("versions only rise")
	ErrInvalid       = errors.New("invalid entry")
	ErrNotExportable = errors.New("the entry is not exportable")
	ErrFull          = errors.New("the store's index is full")
	ErrTampered      = errors.New("the store was changed or damaged")
	ErrRollback      = errors.New("the store was set back to an older state")
	ErrSealed        = errors.New("the store does not open with this seal")
)

// Type is what a value is.
type Type uint8

// The types, as they stand in the index.
const (
	SymmetricKey Type = 1 // 16 to 128 bytes
	PrivateKey   Type = 2 // PKCS #8, DER
	X509Cert     Type = 3 // one certificate, DER
	X509Chain    Type = 4 // certificates one after the other, DER, leaf first
	Blob         Type = 5 // anything, 1 byte or more
)

var typeNames = [...]string{"", "symmetric-key", "private-key", "x509-cert", "x509-chain", "blob"}

// Types lists the names of all types.
func Types() []string { return typeNames[1:] }

func (t Type) String() string {
	if t.valid() {
		return typeNames[t]
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

func (t Type) valid() bool { return t >= SymmetricKey && t <= Blob }

// Public says whether values of the type are certificates, which anybody may see.
func (t Type) Public() bool { return t == X509Cert || t == X509Chain }

// ParseType is the inverse of String.
func ParseType(s string) (Type, error) {
	for i, n := range typeNames {
		if i > 0 && n == s {
			return Type(i), nil
		}
	}
	return 0, fmt.Errorf("%w: type %.32q is none of %q", ErrInvalid, s, Types())
}

// Entry is what the index says about one version of a value.
type Entry struct {
	Tag        string
	Type       Type
	Version    int       // 1 to MaxVersion
	Time       time.Time // of writing, whole seconds
	Exportable bool
	Alg        Alg // "" if it was put, not generated
	Size       int // bytes of the value
}

func (e Entry) String() string { return fmt.Sprintf("%s %s version %d", e.Type, e.Tag, e.Version) }

// CheckTag says whether tag is one: segments of letters, digits, dot,
// underscore and hyphen, separated by slashes, each beginning with a letter,
// digit or underscore.
func CheckTag(tag string) error {
	if len(tag) > MaxTag || !form.Words(tag, "/", form.Chars("A-Za-z0-9_"), form.Chars("A-Za-z0-9._-")) {
		return fmt.Errorf("%w: tag %.140q", ErrInvalid, tag)
	}
	return nil
}

// CheckValue says whether a value has the form of its type.
func CheckValue(t Type, v *secret.Bytes) error {
	switch {
	case !t.valid():
		return fmt.Errorf("%w: %s", ErrInvalid, t)
	case v.Len() == 0 || v.Len() > MaxValue:
		return fmt.Errorf("%w: value of %d bytes, allowed are 1 to %d", ErrInvalid, v.Len(), MaxValue)
	}
	switch t {
	case SymmetricKey:
		if v.Len() < MinSymmetric || v.Len() > MaxSymmetric {
			return fmt.Errorf("%w: symmetric key of %d bytes, allowed are %d to %d", ErrInvalid, v.Len(), MinSymmetric, MaxSymmetric)
		}
	case PrivateKey:
		k, err := parsePrivate(v)
		if err != nil {
			return err
		}
		k.Close()
	case X509Cert, X509Chain:
		certs, err := x509.ParseCertificates(v.Bytes())
		if err != nil {
			return fmt.Errorf("%w: %s: %v", ErrInvalid, t, err)
		}
		if len(certs) == 0 || t == X509Cert && len(certs) != 1 {
			return fmt.Errorf("%w: %s of %d certificates", ErrInvalid, t, len(certs))
		}
	}
	return nil
}

// coded gives an error of this package its stable code.
func coded(err error) error {
	for _, c := range []struct {
		target error
		code   code.Code
	}{
		{ErrRollback, code.CryptstoreRollback},
		{ErrTampered, code.CryptstoreTampered},
		{ErrSealed, code.CryptstoreSealed},
		{ErrNotExportable, code.CryptstoreNotExportable},
		{ErrNotFound, code.CryptstoreNoEntry},
		{ErrExport, code.CryptstoreExport},
	} {
		if errors.Is(err, c.target) {
			return code.Wrap(c.code, err)
		}
	}
	return err
}
