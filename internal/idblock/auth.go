package idblock

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"attestbox/internal/snp"
)

// Offsets in the ID authentication information, see doc.go.
const (
	offIDAlgo     = 0x000
	offAuthorAlgo = 0x004
	offReserved0  = 0x008
	offBlockSig   = 0x040
	offIDKey      = 0x240
	offReserved1  = 0x644
	offIDKeySig   = 0x680
	offAuthorKey  = 0x880
	offReserved2  = 0xC84
)

// Auth is the ID authentication information of one ID block.
type Auth struct {
	IDKey    PublicKey
	BlockSig Signature
	// AuthorKey is nil where there is none; IDKeySig is zero then.
	AuthorKey *PublicKey
	IDKeySig  Signature
	// authorAlgo is AUTHOR_KEY_ALGO: without an author key it is 0 or 1, as
	// whoever wrote it liked.
	authorAlgo uint32
}

// Sign signs a block with the ID key and, where there is an author key, the ID
// key with that.
func Sign(b *Block, id, author *ecdsa.PrivateKey) (*Auth, error) {
	a := &Auth{authorAlgo: snp.SigECDSAP384SHA384}
	var err error
	if a.IDKey, err = NewPublicKey(&id.PublicKey); err != nil {
		return nil, fmt.Errorf("ID key: %w", err)
	}
	if a.BlockSig, err = sign(id, b.Marshal()); err != nil {
		return nil, fmt.Errorf("signing the ID block: %w", err)
	}
	if author == nil {
		return a, nil
	}
	k, err := NewPublicKey(&author.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("author key: %w", err)
	}
	if k == a.IDKey {
		return nil, fmt.Errorf("the author key is the ID key: it vouches for nothing")
	}
	a.AuthorKey = &k
	if a.IDKeySig, err = sign(author, a.IDKey[:]); err != nil {
		return nil, fmt.Errorf("signing the ID key: %w", err)
	}
	return a, nil
}

func sign(key *ecdsa.PrivateKey, message []byte) (Signature, error) {
	digest := sha512.Sum384(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return Signature{}, err
	}
	return newSignature(r, s), nil
}

// ParseAuth reads ID authentication information of exactly AuthSize bytes. Keys
// must lie on P-384; signatures are not verified, see Verify.
func ParseAuth(raw []byte) (*Auth, error) {
	if len(raw) != AuthSize {
		return nil, fmt.Errorf("%w: authentication information of %d bytes, want %d", ErrMalformed, len(raw), AuthSize)
	}
	for _, gap := range [][2]int{{offReserved0, offBlockSig}, {offReserved1, offIDKeySig}, {offReserved2, AuthSize}} {
		if !isZero(raw[gap[0]:gap[1]]) {
			return nil, fmt.Errorf("%w: reserved bytes 0x%03x to 0x%03x are not zero", ErrMalformed, gap[0], gap[1]-1)
		}
	}
	le := binary.LittleEndian
	if algo := le.Uint32(raw[offIDAlgo:]); algo != snp.SigECDSAP384SHA384 {
		return nil, fmt.Errorf("%w: ID_KEY_ALGO %d, want 1 (ECDSA P-384 with SHA-384)", ErrMalformed, algo)
	}
	a := &Auth{authorAlgo: le.Uint32(raw[offAuthorAlgo:])}
	copy(a.IDKey[:], raw[offIDKey:])
	copy(a.BlockSig[:], raw[offBlockSig:])
	if err := a.IDKey.check(); err != nil {
		return nil, fmt.Errorf("%w: ID_KEY: %w", ErrMalformed, err)
	}
	if err := a.BlockSig.check(); err != nil {
		return nil, fmt.Errorf("%w: ID_BLOCK_SIG: %w", ErrMalformed, err)
	}
	if isZero(raw[offIDKeySig:offReserved2]) {
		if a.authorAlgo > snp.SigECDSAP384SHA384 {
			return nil, fmt.Errorf("%w: AUTHOR_KEY_ALGO %d without an author key", ErrMalformed, a.authorAlgo)
		}
		return a, nil
	}
	if a.authorAlgo != snp.SigECDSAP384SHA384 {
		return nil, fmt.Errorf("%w: AUTHOR_KEY_ALGO %d, want 1 (ECDSA P-384 with SHA-384)", ErrMalformed, a.authorAlgo)
	}
	a.AuthorKey = new(PublicKey)
	copy(a.AuthorKey[:], raw[offAuthorKey:])
	copy(a.IDKeySig[:], raw[offIDKeySig:])
	if err := a.AuthorKey.check(); err != nil {
		return nil, fmt.Errorf("%w: AUTHOR_KEY: %w", ErrMalformed, err)
	}
	if err := a.IDKeySig.check(); err != nil {
		return nil, fmt.Errorf("%w: ID_KEY_SIG: %w", ErrMalformed, err)
	}
	return a, nil
}

// Marshal is the exact inverse of ParseAuth.
func (a *Auth) Marshal() []byte {
	raw := make([]byte, AuthSize)
	le := binary.LittleEndian
	le.PutUint32(raw[offIDAlgo:], snp.SigECDSAP384SHA384)
	le.PutUint32(raw[offAuthorAlgo:], a.authorAlgo)
	copy(raw[offBlockSig:], a.BlockSig[:])
	copy(raw[offIDKey:], a.IDKey[:])
	copy(raw[offIDKeySig:], a.IDKeySig[:])
	if a.AuthorKey != nil {
		copy(raw[offAuthorKey:], a.AuthorKey[:])
	}
	return raw
}

// Verify checks the ID key's signature over the block.
func (a *Auth) Verify(b *Block) error {
	if err := a.IDKey.verify(b.Marshal(), &a.BlockSig); err != nil {
		return fmt.Errorf("ID_BLOCK_SIG: %w", err)
	}
	return nil
}

// VerifyAuthor checks the author key's signature over the ID key.
func (a *Auth) VerifyAuthor() error {
	if a.AuthorKey == nil {
		return fmt.Errorf("ID_KEY_SIG: there is no author key: %w", ErrSignature)
	}
	if err := a.AuthorKey.verify(a.IDKey[:], &a.IDKeySig); err != nil {
		return fmt.Errorf("ID_KEY_SIG: %w", err)
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
