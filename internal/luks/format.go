package luks

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Defaults of Format.
const (
	DefaultHeaderArea = 1 << 20 // room for three keyslots
	DefaultSectorSize = 4096
	DefaultIterations = minIterations
	// MinKey is the shortest key that Format takes: the keyslot's derivation
	// is cheap, so the key must be random.
	MinKey = 32
)

// Params say what Format writes.
type Params struct {
	UUID       string    // 36 lower-case characters; required
	Label      string    // at most 47 bytes; may be empty
	Integrity  string    // IntegrityHMAC or IntegrityNone; required, so that bare XTS is a decision
	SectorSize int       // 512 or 4096; 0 is DefaultSectorSize
	HeaderArea int64     // offset of the data; 0 is DefaultHeaderArea
	HdrSize    int64     // of one header; 0 is 16 KiB
	Iterations int       // of pbkdf2-sha256; 0 is DefaultIterations
	Rand       io.Reader // nil is crypto/rand
}

// suite checks p and fills in its defaults.
func (p *Params) suite() (*Suite, error) {
	if p.SectorSize == 0 {
		p.SectorSize = DefaultSectorSize
	}
	if p.HeaderArea == 0 {
		p.HeaderArea = DefaultHeaderArea
	}
	if p.HdrSize == 0 {
		p.HdrSize = minHdrSize
	}
	if p.Iterations == 0 {
		p.Iterations = DefaultIterations
	}
	if p.Rand == nil {
		p.Rand = rand.Reader
	}
	if p.Integrity != IntegrityHMAC && p.Integrity != IntegrityNone {
		return nil, fmt.Errorf("integrity is %q, want %q or %q: the others use random nonces of 96 bits", clip(p.Integrity), IntegrityHMAC, IntegrityNone)
	}
	suite, err := SuiteNamed(p.Integrity)
	if err != nil {
		return nil, err
	}
	switch least := 2*p.HdrSize + suite.areaSize(); {
	case !ValidUUID(p.UUID):
		return nil, fmt.Errorf("UUID %q is malformed", clip(p.UUID))
	case len(p.Label) >= lenLabel || bytes.ContainsFunc([]byte(p.Label), func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return nil, fmt.Errorf("label is longer than %d bytes or holds a control character", lenLabel-1)
	case p.SectorSize != 512 && p.SectorSize != 4096:
		return nil, fmt.Errorf("sector size is %d, want 512 or 4096", p.SectorSize)
	case !validHdrSize(uint64(p.HdrSize)):
		return nil, fmt.Errorf("header size is %d, want a power of two from %d to %d", p.HdrSize, minHdrSize, maxHdrSize)
	case p.HeaderArea < least || p.HeaderArea > MaxHeaderArea || p.HeaderArea%areaAlign != 0:
		return nil, fmt.Errorf("header area is %d bytes, want a multiple of %d from %d to %d", p.HeaderArea, areaAlign, least, MaxHeaderArea)
	case p.Iterations < minIterations || p.Iterations > maxIterations:
		return nil, fmt.Errorf("iterations are %d, want %d to %d", p.Iterations, minIterations, maxIterations)
	}
	return suite, nil
}

// Format makes the header area of a new volume with a random volume key, as
// cryptsetup luksFormat writes it with pbkdf2: two headers, keyslot 0, zeros up
// to the data. It returns the area, the opened volume (the caller closes it)
// and the record to register. The caller keeps key and wipes it.
func Format(key *secret.Bytes, p Params) (header []byte, v *Volume, record *wire.HeaderRecord, err error) {
	suite, err := p.suite()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
	}
	if key.Len() < MinKey {
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: key is %d bytes, want at least %d random ones", key.Len(), MinKey)
	}
	vk := secret.New(suite.KeyBytes)
	defer vk.Zero()
	salts := make([]byte, 2*saltSize+2*lenSalt)
	for _, b := range [][]byte{vk.Bytes(), salts} {
		if _, err := io.ReadFull(p.Rand, b); err != nil {
			return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
		}
	}
	kdfSalt, digSalt, hdrSalts := salts[:saltSize], salts[saltSize:2*saltSize], salts[2*saltSize:]

	header = make([]byte, p.HeaderArea)
	area := header[2*p.HdrSize:]
	iter := uint64(p.Iterations)
	hash := "sha256"
	slot := keyslot{
		Type: "luks2", KeySize: uint64(suite.KeyBytes),
		AF:   af{"luks1", afStripes, "sha256"},
		Area: layout(2*p.HdrSize, suite.areaSize()),
		KDF:  kdf{Type: "pbkdf2", Hash: &hash, Iterations: &iter, Salt: base64.StdEncoding.EncodeToString(kdfSalt)},
	}
	if err := sealSlot(area, vk, key, &slot.KDF, kdfSalt, p.Rand); err != nil {
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
	}
	sum := pbkdf2(vk, digSalt, iter, digestSize)
	defer sum.Zero()
	md := metadata{
		Keyslots: map[string]keyslot{"0": slot},
		Tokens:   map[string]json.RawMessage{},
		Segments: map[string]segment{"0": {
			Type: "crypt", Offset: strconv.FormatInt(p.HeaderArea, 10), Size: "dynamic", IVTweak: "0",
			Encryption: suite.Cipher, SectorSize: uint64(p.SectorSize), Integrity: suite.header(),
		}},
		Digests: map[string]keyDigest{"0": {
			Type: "pbkdf2", Keyslots: []string{"0"}, Segments: []string{"0"}, Hash: "sha256", Iterations: iter,
			Salt: base64.StdEncoding.EncodeToString(digSalt), Digest: base64.StdEncoding.EncodeToString(sum.Bytes()),
		}},
		Config: &config{
			JSONSize:     strconv.FormatInt(p.HdrSize-binSize, 10),
			KeyslotsSize: strconv.FormatInt(p.HeaderArea-2*p.HdrSize, 10),
		},
	}
	bin := binHeader{HdrSize: uint64(p.HdrSize), SeqID: 1, Label: p.Label, UUID: p.UUID}
	if err := writeHeaders(header, bin, &md, hdrSalts); err != nil {
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
	}
	if record, err = RecordOf(header); err != nil { // our own rules hold for what we write
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
	}
	// Opening it again proves that the key opens what is about to be written.
	v, err = Open(bytes.NewReader(header), record, key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("formatting LUKS header: %w", err)
	}
	return header, v, record, nil
}

func layout(offset, size int64) area {
	return area{Type: "raw", Offset: strconv.FormatInt(offset, 10), Size: strconv.FormatInt(size, 10), Encryption: Cipher, KeySize: slotKeyBytes}
}

// sealSlot writes vk, split and encrypted under key, to the start of area.
func sealSlot(area []byte, vk, key *secret.Bytes, k *kdf, salt []byte, random io.Reader) error {
	size := vk.Len() * afStripes
	stripes := secret.New(size)
	defer stripes.Zero()
	if _, err := io.ReadFull(random, stripes.Bytes()); err != nil {
		return err
	}
	afSplit(vk, stripes.Bytes())
	slotKey := k.derive(key, salt)
	defer slotKey.Zero()
	c, err := newXTS(slotKey)
	if err != nil {
		return err
	}
	for i := 0; i < size; i += areaSector {
		c.Encrypt(area[i:i+areaSector], stripes.Bytes()[i:i+areaSector], uint64(i/areaSector))
	}
	return nil
}

// writeHeaders puts both headers with the metadata at the start of header;
// salts are the two headers', 64 bytes each.
func writeHeaders(header []byte, bin binHeader, md *metadata, salts []byte) error {
	text, err := marshalMetadata(md)
	if err != nil {
		return err
	}
	if uint64(len(text)) >= bin.HdrSize-binSize {
		return fmt.Errorf("metadata is %d bytes, the JSON area holds %d", len(text), bin.HdrSize-binSize)
	}
	for i, magic := range []string{magicPrimary, magicSecondary} {
		bin.HdrOffset = uint64(i) * bin.HdrSize
		copy(bin.Salt[:], salts[i*lenSalt:])
		h := header[bin.HdrOffset : bin.HdrOffset+bin.HdrSize]
		clear(h)
		bin.marshal(h, magic)
		copy(h[binSize:], text)
		sum := checksum(h)
		copy(h[offCsum:], sum[:])
	}
	return nil
}

// marshalMetadata writes compact JSON as cryptsetup does, "<" and the like unescaped.
func marshalMetadata(md *metadata) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(md); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// NewUUID is a random UUID (RFC 9562, version 4).
func NewUUID(random io.Reader) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return "", err
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}
