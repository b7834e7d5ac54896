package wire

// HeaderRecord is what the verifier registers of a LUKS2 header and delivers
// with the key: the digest of everything in front of the data, and the
// geometry that the guest insists on (DESIGN section 9). The guest compares
// the digest before it parses anything.
type HeaderRecord struct {
	// Digest is the SHA-256, in lower-case hex, over the first Size bytes of
	// the device: primary header, secondary header and keyslot area.
	Digest string `json:"digest"`
	// Size is the number of bytes covered; it equals SegmentOffset.
	Size int64 `json:"size"`
	// UUID is the LUKS2 header's, in lower case.
	UUID string `json:"uuid"`
	// SegmentOffset is where the encrypted data begins, in bytes.
	SegmentOffset int64 `json:"segment_offset"`
	// SectorSize is the encryption sector, 512 or 4096 bytes.
	SectorSize int `json:"sector_size"`
	// Cipher is the header's name for it: "aes-xts-plain64", or the cipher of
	// an "aead-..." integrity.
	Cipher string `json:"cipher"`
	// KeyBytes is the size of the volume key: 64 for AES-256-XTS, 96 with
	// HMAC-SHA-256; package luks knows which belongs to which integrity.
	KeyBytes int `json:"key_bytes"`
	// Integrity is "none" for bare XTS, "hmac-sha256", or one of the AEAD
	// modes, "aead-gcm", "aead-chacha20-poly1305" and "aead-aegis128".
	Integrity string `json:"integrity"`

	// Scope is empty for a record of the whole header area. "primary" and
	// "secondary" are records of that header copy with its keyslot's area, and of
	// nothing else: during a rotation the rest of the area changes. Digest then
	// covers HdrSize bytes at the copy's place, followed by the AreaSize bytes at
	// AreaOffset.
	Scope      string `json:"scope,omitempty"`
	HdrSize    int64  `json:"hdr_size,omitempty"`
	AreaOffset int64  `json:"area_offset,omitempty"`
	AreaSize   int64  `json:"area_size,omitempty"`
}

// Scopes of a header record.
const (
	ScopeWhole     = ""
	ScopePrimary   = "primary"
	ScopeSecondary = "secondary"
)

// Suite is what a header record says of the data, whatever its keyslot: it does
// not change while the data stays.
type Suite struct {
	UUID, Cipher, Integrity string
	SegmentOffset           int64
	SectorSize, KeyBytes    int
}

// Suite is the record's.
func (r *HeaderRecord) Suite() Suite {
	return Suite{r.UUID, r.Cipher, r.Integrity, r.SegmentOffset, r.SectorSize, r.KeyBytes}
}

// Endorsement is one certificate or list that comes with a report.
type Endorsement struct {
	// Kind is "vek", "ask", "ark" or "crl".
	Kind string `json:"kind"`
	// DER is the object itself.
	DER []byte `json:"der"`
}
