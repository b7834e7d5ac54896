package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/wire"
)

// Reader is a bundle whose signature was verified; its parts come after that.
type Reader struct {
	h      Header
	digest wire.Hex32
	src    io.Reader
	parts  []Part // that were not read yet
}

// Open reads the header and verifies the owner's signature. Of a header that is
// not signed only the length is looked at.
func Open(src io.Reader, owner ed25519.PublicKey) (*Reader, error) {
	if len(owner) != ed25519.PublicKeySize {
		return nil, errors.New("the owner's key is no Ed25519 key")
	}
	head := make([]byte, prefixLen, prefixLen+maxJSON)
	if _, err := io.ReadFull(src, head); err != nil {
		return nil, fmt.Errorf("reading the header: %w", short(err))
	}
	n, err := prefix(head)
	if err != nil {
		return nil, err
	}
	head = head[:prefixLen+n]
	if _, err := io.ReadFull(src, head[prefixLen:]); err != nil {
		return nil, fmt.Errorf("reading the header: %w", short(err))
	}
	var sig [ed25519.SignatureSize]byte
	if _, err := io.ReadFull(src, sig[:]); err != nil {
		return nil, fmt.Errorf("reading the signature: %w", short(err))
	}
	digest := wire.BundleDigest(head)
	if !ed25519.Verify(owner, wire.BundleMessage(digest), sig[:]) {
		return nil, ErrSignature
	}
	h, err := parse(head)
	if err != nil {
		return nil, err
	}
	return &Reader{h: *h, digest: digest, src: src, parts: []Part{h.Kernel, h.Initrd, h.Cmdline}}, nil
}

// short gives a source that ends too early its error.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	return err
}

// Header is what was signed.
func (r *Reader) Header() Header { return r.h }

// Digest names the bundle, see wire.BundleDigest.
func (r *Reader) Digest() wire.Hex32 { return r.digest }

// chunk is how much is read at once.
const chunk = 256 << 10

// Next copies the next part to dst: the kernel, the initramfs, the command
// line. What dst got is what the owner signed only if Next returns nil; after
// an error nothing more can be read. dst gets the very bytes that are hashed,
// out of memory of our own.
func (r *Reader) Next(dst io.Writer) error {
	if len(r.parts) == 0 {
		return errors.New("the bundle has no further part")
	}
	p, rest := r.parts[0], r.parts[1:]
	r.parts = nil
	buf := make([]byte, min(chunk, p.Size))
	sum := sha256.New()
	for left := p.Size; left > 0; {
		b := buf[:min(int64(len(buf)), left)]
		if _, err := io.ReadFull(r.src, b); err != nil {
			return short(err)
		}
		sum.Write(b)
		if _, err := dst.Write(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	if wire.Hex32(sum.Sum(nil)) != p.SHA256 {
		return ErrContent
	}
	r.parts = rest
	return nil
}
