package image

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrPrivateKey is an input that is a private key or holds one.
var ErrPrivateKey = errors.New("private key among the inputs")

func refuseKey(name string, data []byte) error {
	why := PrivateKey(data)
	if why == "" {
		why = findRaw(name, data)
	}
	if why == "" {
		if why = PrivateKey(unpacked(data)); why != "" {
			why += ", compressed"
		}
	}
	if why != "" {
		return fmt.Errorf("%w: %q %s", ErrPrivateKey, name, why)
	}
	return nil
}

// maxUnpacked bounds what is searched of a compressed file, in bytes.
const maxUnpacked = 64 << 20

// unpacked is the start of what a gzip, zstd or xz file holds, as far as it
// reads; nil for another kind of file. Of a tarball the text forms of keys are
// found that way too.
func unpacked(data []byte) []byte {
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(bytes.NewReader(data))
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxUnpacked)); err == nil {
			defer z.Close()
			r = z
		}
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		r, err = (xz.ReaderConfig{DictCap: 1 << 16}).NewReader(bytes.NewReader(data))
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, maxUnpacked)) // a broken end hides nothing before it
	return out
}

// PrivateKey says what private key data is or holds, as the end of a sentence,
// and "" if none is recognised. Text forms are found anywhere, also inside a
// program; binary forms are found where they are the whole file. It does not
// look into compressed data or archives, and raw random bytes have no form that
// could be recognised: for them there is the guess of findRaw. refuseKey looks
// into one layer of compression before it asks.
func PrivateKey(data []byte) string { return privateKey(data, 1) }

func privateKey(data []byte, depth int) string {
	for _, find := range []func([]byte) string{findPEM, findText, findStart, findDER, findOpenPGP, findJWK} {
		if why := find(data); why != "" {
			return why
		}
	}
	if depth > 0 {
		return findBase64PEM(data, depth)
	}
	return ""
}

var pemBegin = regexp.MustCompile(`-{4,5} ?BEGIN ([A-Z0-9 ]{1,60}?) ?-{4,5}`)

// findPEM finds a PEM label that says private or secret key and has a body or
// headers behind it. Newlines may be escaped, as in JSON. The label alone, as
// programs carry it that write keys, is no key.
func findPEM(data []byte) string {
	for _, m := range pemBegin.FindAllSubmatchIndex(data, -1) {
		label := data[m[2]:m[3]]
		if !bytes.Contains(label, []byte("PRIVATE KEY")) && !bytes.Contains(label, []byte("SECRET KEY")) {
			continue
		}
		if pemBody.Match(data[m[1]:min(m[1]+1024, len(data))]) {
			return fmt.Sprintf("holds a PEM block %q", bytes.TrimSpace(label))
		}
	}
	return ""
}

// After the label: white space or escaped newlines, header lines, then base64.
var pemBody = regexp.MustCompile(`^(?:[-\s"',]|\\[nrt])*(?:[A-Za-z-]{3,30}: |[A-Za-z0-9+/]{16})`)

// textForms are looked for where their literal stands, on the text from the
// start of its line: an expression run over a whole program would take seconds.
var textForms = []struct {
	literal string
	re      *regexp.Regexp
	what    string
}{
	{"AGE-SECRET-KEY-", regexp.MustCompile(`AGE-SECRET-KEY-(?:PQ-)?1[02-9AC-HJ-NP-Z]{40,}`), "holds an age secret key"},
	{"AGE-PLUGIN-", regexp.MustCompile(`AGE-PLUGIN-[A-Z0-9]{1,40}-1[02-9AC-HJ-NP-Z]{6,}`), "holds an age plugin identity"},
	{"rivateKey", wireguard, "holds a WireGuard private key"},
	{"rivatekey", wireguard, "holds a WireGuard private key"},
	{"RIVATEKEY", wireguard, "holds a WireGuard private key"},
	{"private-key", regexp.MustCompile(`\((?:\d+:)?(?:shadowed-|protected-)?private-key[\s(]`), "holds a GnuPG private key"},
	{"PuTTY-User-Key-File-", regexp.MustCompile(`^PuTTY-User-Key-File-[0-9]: `), "holds a PuTTY private key"},
	{"untrusted comment:", regexp.MustCompile(`^untrusted comment:[^\n]*secret key[^\n]*\n[A-Za-z0-9+/=]{40,}`), "holds a minisign or signify secret key"},
}

var wireguard = regexp.MustCompile(`(?i)^[ \t]*PrivateKey[ \t]*=[ \t]*[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=`)

func findText(data []byte) string {
	for _, f := range textForms {
		for at := 0; ; {
			i := bytes.Index(data[at:], []byte(f.literal))
			if i < 0 {
				break
			}
			at += i
			start := max(at-64, 0)
			if nl := bytes.LastIndexByte(data[start:at], '\n'); nl >= 0 {
				start += nl + 1
			}
			if f.re.Match(data[start:min(at+4096, len(data))]) {
				return f.what
			}
			at += len(f.literal)
		}
	}
	return ""
}

// findStart knows files by their first bytes.
func findStart(data []byte) string {
	for _, f := range []struct {
		at    int
		magic string
		what  string
	}{
		{0, "openssh-key-v1\x00", "is an OpenSSH private key"},
		{0, "\xfe\xed\xfe\xed", "is a Java key store"},
		{0, "\xce\xce\xce\xce", "is a Java key store"},
		// bbolt: a page header of 16 bytes, then the magic, in the machine's order.
		{16, "\xed\xda\x0c\xed", "is a bbolt database, the form of a verifier's state, which holds its keys"},
	} {
		if len(data) >= f.at+len(f.magic) && string(data[f.at:f.at+len(f.magic)]) == f.magic {
			return f.what
		}
	}
	return ""
}

// findOpenPGP finds a file that begins with a secret-key or secret-subkey
// packet (RFC 9580 sections 4.2, 5.5.3).
func findOpenPGP(data []byte) string {
	if len(data) < 12 || data[0]&0x80 == 0 {
		return ""
	}
	tag, body := data[0]&0x3f, 0
	if data[0]&0x40 == 0 { // old form: tag in bits 2-5, length's length in bits 0-1
		tag = data[0] >> 2 & 0xf
		body = []int{2, 3, 5, 1}[data[0]&3]
	} else {
		switch l := data[1]; {
		case l < 192:
			body = 2
		case l < 224:
			body = 3
		case l == 255:
			body = 6
		default:
			body = 2 // a partial length
		}
	}
	if tag != 5 && tag != 7 {
		return ""
	}
	// Version, 4 bytes of time, (version 3: 2 of validity,) algorithm.
	at := body + 5
	if data[body] == 3 {
		at += 2
	}
	if v := data[body]; v < 3 || v > 6 || at >= len(data) {
		return ""
	}
	switch data[at] {
	case 1, 2, 3, 16, 17, 18, 19, 20, 22, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 36:
		return "is an OpenPGP secret key"
	}
	return ""
}

// findJWK finds a JSON Web Key (RFC 7517) with a private part, or a set of
// them, anywhere in a JSON file.
func findJWK(data []byte) string {
	text := bytes.TrimSpace(data)
	if len(text) == 0 || len(text) > 4<<20 || (text[0] != '{' && text[0] != '[') || !bytes.Contains(text, []byte("kty")) {
		return ""
	}
	var v any
	if json.Unmarshal(text, &v) != nil {
		return ""
	}
	if hasJWK(v) {
		return "holds a JSON Web Key with a private part"
	}
	return ""
}

func hasJWK(v any) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if hasJWK(e) {
				return true
			}
		}
	case map[string]any:
		if _, ok := v["kty"]; ok && (v["d"] != nil || v["k"] != nil || v["priv"] != nil) {
			return true
		}
		for _, e := range v {
			if hasJWK(e) {
				return true
			}
		}
	}
	return false
}

// base64Begin is the base64 of "-----BEGIN " less its last characters, which
// depend on what follows.
var base64Begin = []byte("LS0tLS1CRUdJTi")

// findBase64PEM looks into base64 of a whole PEM file, the form in which
// cluster configurations and cloud-init carry keys.
func findBase64PEM(data []byte, depth int) string {
	for n := 0; n < 64; n++ {
		i := bytes.Index(data, base64Begin)
		if i < 0 {
			return ""
		}
		data = data[i:]
		text := make([]byte, 0, 8<<10)
		for _, c := range data[:min(len(data), 8<<10)] {
			switch {
			case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/':
				text = append(text, c)
				continue
			case c == '\n', c == '\r', c == ' ', c == '\t':
				continue
			}
			break
		}
		raw := make([]byte, len(text))
		m, _ := base64.RawStdEncoding.Decode(raw, text) // as far as it goes
		if why := privateKey(raw[:m], depth-1); why != "" {
			return why + ", in base64"
		}
		data = data[len(base64Begin):]
	}
	return ""
}
