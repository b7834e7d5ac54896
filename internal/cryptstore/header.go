package cryptstore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"attestbox/internal/form"
	"attestbox/internal/secret"
)

const (
	magic         = "ABXCRYPT"
	formatVersion = 1

	// MaxName bounds the name of a store, in bytes.
	MaxName = 64
	// MaxParams bounds the parameters of a seal, in bytes.
	MaxParams = 1024
	// MaxEscrow bounds an escrow copy, in bytes.
	MaxEscrow = 4096
)

// Binding is what a seal is bound to beside its own parameters.
type Binding struct {
	ID   [16]byte // of the store, random
	Name string
}

// Header is the part of a store's head that is not secret. What Inspect
// returns is not authenticated: whoever can write the store can write it.
type Header struct {
	Binding
	Epoch  uint64
	Kind   string // of the seal
	Params []byte
	Escrow []byte // copy of the store key for the server; empty without one

	wrapped [wrappedSize]byte
}

var lower = form.Chars("a-z0-9")

// CheckName says whether name can be a store's: lower-case letters, digits,
// dot, underscore and hyphen, beginning with a letter or digit.
func CheckName(name string) error {
	if len(name) > MaxName || !form.Word(name, lower, form.Chars("a-z0-9._-")) {
		return fmt.Errorf("%w: store name %.80q", ErrInvalid, name)
	}
	return nil
}

func kindForm(kind string) bool {
	return len(kind) <= 32 && form.Word(kind, lower, form.Chars("a-z0-9-"))
}

func (h *Header) check() error {
	if err := CheckName(h.Name); err != nil {
		return err
	}
	switch {
	case h.Epoch == 0:
		return fmt.Errorf("%w: epoch 0", ErrInvalid)
	case !kindForm(h.Kind):
		return fmt.Errorf("%w: kind of seal %.40q", ErrInvalid, h.Kind)
	case len(h.Params) > MaxParams:
		return fmt.Errorf("%w: seal parameters of %d bytes, at most %d", ErrInvalid, len(h.Params), MaxParams)
	case len(h.Escrow) > MaxEscrow:
		return fmt.Errorf("%w: escrow of %d bytes, at most %d", ErrInvalid, len(h.Escrow), MaxEscrow)
	}
	return nil
}

func (h *Header) marshal() []byte {
	le := binary.LittleEndian
	b := []byte(magic)
	b = le.AppendUint32(b, formatVersion)
	b = le.AppendUint64(b, h.Epoch)
	b = append(b, h.ID[:]...)
	b = append(append(b, byte(len(h.Name))), h.Name...)
	b = append(append(b, byte(len(h.Kind))), h.Kind...)
	b = append(le.AppendUint16(b, uint16(len(h.Params))), h.Params...)
	b = append(b, h.wrapped[:]...)
	return append(le.AppendUint16(b, uint16(len(h.Escrow))), h.Escrow...)
}

// parseHead takes a head apart: the header, the bytes that it came from, and
// the sealed index.
func parseHead(b []byte) (h *Header, raw, index []byte, err error) {
	r := reader{b: b}
	if m, v := r.take(len(magic)), r.u32(); !r.bad && (string(m) != magic || v != formatVersion) {
		return nil, nil, nil, fmt.Errorf("%w: not a cryptstore of format %d", ErrTampered, formatVersion)
	}
	h = &Header{Epoch: r.u64()}
	copy(h.ID[:], r.take(len(h.ID)))
	h.Name = string(r.take(int(r.u8())))
	h.Kind = string(r.take(int(r.u8())))
	h.Params = slices.Clone(r.take(int(r.u16())))
	copy(h.wrapped[:], r.take(wrappedSize))
	h.Escrow = slices.Clone(r.take(int(r.u16())))
	if r.bad || len(r.b) < boxOverhead+4 {
		return nil, nil, nil, fmt.Errorf("%w: head of %d bytes is too short", ErrTampered, len(b))
	}
	if err := h.check(); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %v", ErrTampered, err)
	}
	return h, b[:len(b)-len(r.b)], r.b, nil
}

func (h *Header) wrapAD() []byte {
	return lengthPrefixed(h.ID[:], []byte(h.Name), []byte(h.Kind), h.Params)
}

func (h *Header) wrap(sealing, storeKey *secret.Bytes) error {
	b, err := sealBox(sealing, domainWrap, h.wrapAD(), storeKey.Bytes())
	if err != nil {
		return err
	}
	copy(h.wrapped[:], b)
	return nil
}

func (h *Header) unwrap(sealing *secret.Bytes) (*secret.Bytes, error) {
	key := secret.New(KeySize)
	if err := openBox(sealing, domainWrap, h.wrapAD(), h.wrapped[:], key.Bytes()); err != nil {
		key.Zero()
		return nil, ErrSealed
	}
	return key, nil
}

// reader takes bytes from the front; after the end all it gives is empty and
// bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) fixed(n int) []byte {
	if b := r.take(n); !r.bad {
		return b
	}
	return make([]byte, n)
}

func (r *reader) u8() uint8   { return r.fixed(1)[0] }
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.fixed(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.fixed(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.fixed(8)) }
