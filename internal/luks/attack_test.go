package luks

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"attestbox/internal/code"
)

func TestVictimOpens(t *testing.T) {
	v := newVictim(t)
	vol, err := Open(bytes.NewReader(append(bytes.Clone(v.header), 1, 2, 3)), v.record, v.key)
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close()
	if hex.EncodeToString(vol.HeaderDigest[:]) != v.record.Digest || vol.Offset != v.record.SegmentOffset || vol.UUID != testUUID || vol.VolumeKey.Len() != 64 {
		t.Errorf("volume %+v", vol)
	}
	if results, ok := Check(v.header, v.record, Limits{}); !ok || len(results) != len(rules)+2 {
		t.Errorf("check: %v", results)
	}
	if got := v.withJSON(v.json()); !bytes.Equal(got, v.header) {
		t.Error("the attacks' own writer changes the header")
	}
}

// Every attack on the metadata that keeps all checksums and the digest valid.
func TestMetadataAttacks(t *testing.T) {
	v := newVictim(t)
	salt32 := strings.Repeat("A", 43) + "="
	slot := `{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},"area":{"type":"raw","offset":"290816","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"` + salt32 + `"}}`
	argon := func(time, memory, cpus string) string {
		return `"kdf":{"type":"argon2id","time":` + time + `,"memory":` + memory + `,"cpus":` + cpus + `,"salt":"` + salt32 + `"}}`
	}
	const iv, objects = `"iv_tweak":"0"`, code.LUKSObjects
	attacks := []struct {
		name     string
		old, new string // the first old becomes new; a new in capitals below is special
		want     code.Code
		alone    bool // refused without a record too
	}{
		// null and weak ciphers, CVE-2025-59054 and its kin
		{"null data cipher", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`, code.LUKSCipher, true},
		{"null data cipher, long", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"capi:ecb(cipher_null)-null"`, code.LUKSCipher, true},
		{"CBC data cipher", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-cbc-plain64"`, code.LUKSCipher, true},
		{"plain IV", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-xts-plain"`, code.LUKSCipher, true},
		{"empty data cipher", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":""`, code.LUKSCipher, true},
		{"null keyslot cipher", `"size":"258048","encryption":"aes-xts-plain64"`, `"size":"258048","encryption":"cipher_null-ecb"`, code.LUKSArea, true},
		{"area key of 32 bytes", `"encryption":"aes-xts-plain64","key_size":64}`, `"encryption":"aes-xts-plain64","key_size":32}`, code.LUKSArea, true},
		{"area type", `"type":"raw"`, `"type":"none"`, code.LUKSArea, true},
		{"area of journal", `"type":"raw"`, `"type":"journal"`, code.LUKSArea, true},

		// keyslot
		{"keyslot type", `"type":"luks2"`, `"type":"luks1"`, code.LUKSKeyslot, true},
		{"keyslot key 32 bytes", `"type":"luks2","key_size":64`, `"type":"luks2","key_size":32`, code.LUKSKeyslot, true},
		{"keyslot key 0 bytes", `"type":"luks2","key_size":64`, `"type":"luks2","key_size":0`, code.LUKSKeyslot, true},
		{"keyslot key huge", `"type":"luks2","key_size":64`, `"type":"luks2","key_size":4294967360`, code.LUKSKeyslot, true},
		{"keyslot key absent", `"type":"luks2","key_size":64`, `"type":"luks2"`, code.LUKSKeyslot, true},
		{"priority", `"type":"luks2"`, `"type":"luks2","priority":2`, code.LUKSKeyslot, true},
		{"priority 0", `"type":"luks2"`, `"type":"luks2","priority":0`, code.LUKSKeyslot, true},
		{"AF type", `"type":"luks1"`, `"type":"luks2"`, code.LUKSAF, true},
		{"AF of 1 stripe", `"stripes":4000`, `"stripes":1`, code.LUKSAF, true},
		{"AF of 0 stripes", `"stripes":4000`, `"stripes":0`, code.LUKSAF, true},
		{"AF huge", `"stripes":4000`, `"stripes":4000000000`, code.LUKSAF, true},
		{"AF hash", `"stripes":4000,"hash":"sha256"`, `"stripes":4000,"hash":"sha1"`, code.LUKSAF, true},

		// areas
		{"area over the primary header", `"offset":"32768"`, `"offset":"0"`, code.LUKSAreaBounds, true},
		{"area over the secondary header", `"offset":"32768"`, `"offset":"16384"`, code.LUKSAreaBounds, true},
		{"area one block early", `"offset":"32768"`, `"offset":"28672"`, code.LUKSAreaBounds, true},
		{"area over the data", `"offset":"32768"`, `"offset":"294912"`, code.LUKSAreaBounds, true},
		{"area far outside", `"offset":"32768"`, `"offset":"9223372036854771712"`, code.LUKSAreaBounds, true},
		{"area offset overflows", `"offset":"32768"`, `"offset":"18446744073709547520"`, code.LUKSAreaBounds, true},
		{"area unaligned", `"offset":"32768"`, `"offset":"32769"`, code.LUKSAreaBounds, true},
		{"area short", `"size":"258048"`, `"size":"253952"`, code.LUKSAreaBounds, true},
		{"area long", `"size":"258048"`, `"size":"516096"`, code.LUKSAreaBounds, true},
		{"area of 0", `"size":"258048"`, `"size":"0"`, code.LUKSAreaBounds, true},
		{"area offset signed", `"offset":"32768"`, `"offset":"+32768"`, code.LUKSAreaBounds, true},
		{"area offset with zero", `"offset":"32768"`, `"offset":"032768"`, code.LUKSAreaBounds, true},
		{"area offset hex", `"offset":"32768"`, `"offset":"0x8000"`, code.LUKSAreaBounds, true},
		{"area offset with blank", `"offset":"32768"`, `"offset":" 32768"`, code.LUKSAreaBounds, true},
		{"area offset empty", `"offset":"32768"`, `"offset":""`, code.LUKSAreaBounds, true},
		{"area offset absent", `"offset":"32768",`, ``, code.LUKSAreaBounds, true},
		{"area offset as number", `"offset":"32768"`, `"offset":32768`, code.LUKSJSON, true},

		// KDF
		{"pbkdf2 of 1 iteration", `"iterations":1000`, `"iterations":1`, code.LUKSKDFCost, true},
		{"pbkdf2 of 999 iterations", `"iterations":1000`, `"iterations":999`, code.LUKSKDFCost, true},
		{"pbkdf2 too dear", `"iterations":1000`, `"iterations":1000001`, code.LUKSKDFCost, true},
		{"pbkdf2 for ever", `"iterations":1000`, `"iterations":4294967295`, code.LUKSKDFCost, true},
		{"pbkdf2 beyond 64 bits", `"iterations":1000`, `"iterations":18446744073709551617`, code.LUKSJSON, true},
		{"pbkdf2 negative", `"iterations":1000`, `"iterations":-1000`, code.LUKSJSON, true},
		{"pbkdf2 fraction", `"iterations":1000`, `"iterations":1000.5`, code.LUKSJSON, true},
		{"pbkdf2 exponent", `"iterations":1000`, `"iterations":1e3`, code.LUKSJSON, true},
		{"pbkdf2 without iterations", `"iterations":1000,`, ``, code.LUKSKDF, true},
		{"pbkdf2 with SHA-1", `"type":"pbkdf2","hash":"sha256"`, `"type":"pbkdf2","hash":"sha1"`, code.LUKSKDF, true},
		{"pbkdf2 with memory", `"type":"pbkdf2","hash":"sha256"`, `"type":"pbkdf2","memory":64,"hash":"sha256"`, code.LUKSKDF, true},
		{"argon2i", `"type":"pbkdf2","hash"`, `"type":"argon2i","hash"`, code.LUKSKDF, true},
		{"unknown KDF", `"type":"pbkdf2","hash"`, `"type":"none","hash"`, code.LUKSKDF, true},
		{"argon2id with pbkdf2's fields", `"type":"pbkdf2","hash"`, `"type":"argon2id","hash"`, code.LUKSKDF, true},
		{"argon2id memory huge", "KDF", argon("4", "1048577", "4"), code.LUKSKDFCost, true},
		{"argon2id memory absurd", "KDF", argon("4", "4294967295", "4"), code.LUKSKDFCost, true},
		{"argon2id memory 0", "KDF", argon("4", "0", "4"), code.LUKSKDFCost, true},
		{"argon2id time 0", "KDF", argon("0", "65536", "4"), code.LUKSKDFCost, true},
		{"argon2id time 17", "KDF", argon("17", "65536", "4"), code.LUKSKDFCost, true},
		{"argon2id lanes 0", "KDF", argon("4", "65536", "0"), code.LUKSKDFCost, true},
		{"argon2id lanes 5", "KDF", argon("4", "65536", "5"), code.LUKSKDFCost, true},
		{"argon2id lanes 260", "KDF", argon("4", "65536", "260"), code.LUKSKDFCost, true},
		{"KDF salt of 16 bytes", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}}`, code.LUKSKDF, true},
		{"KDF salt of 64 bytes", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"` + strings.Repeat("A", 86) + `=="}}`, code.LUKSKDF, true},
		{"KDF salt empty", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":""}}`, code.LUKSKDF, true},
		{"KDF salt absent", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000}}`, code.LUKSKDF, true},
		{"KDF salt not canonical", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"` + strings.Repeat("A", 42) + `B="}}`, code.LUKSKDF, true},
		{"KDF salt with a line end", "KDF", `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"` + strings.Repeat("A", 41) + `\n\n="}}`, code.LUKSKDF, true},

		// digest
		{"digest type", `"0":{"type":"pbkdf2","keyslots"`, `"0":{"type":"none","keyslots"`, code.LUKSKeyDigest, true},
		{"digest hash", `"segments":["0"],"hash":"sha256"`, `"segments":["0"],"hash":"md5"`, code.LUKSKeyDigest, true},
		{"digest of 1 iteration", `"segments":["0"],"hash":"sha256","iterations":1000`, `"segments":["0"],"hash":"sha256","iterations":1`, code.LUKSKeyDigest, true},
		{"digest too dear", `"segments":["0"],"hash":"sha256","iterations":1000`, `"segments":["0"],"hash":"sha256","iterations":2000000000`, code.LUKSKeyDigest, true},
		{"digest of 0 bytes", "DIGEST", `""`, code.LUKSKeyDigest, true},
		{"digest of 1 byte", "DIGEST", `"AA=="`, code.LUKSKeyDigest, true},
		{"digest of 20 bytes", "DIGEST", `"` + strings.Repeat("A", 27) + `="`, code.LUKSKeyDigest, true},
		{"digest of another key", "DIGEST", `"` + salt32 + `"`, code.LUKSWrongKey, false},
		{"digest for no keyslot", `"keyslots":["0"]`, `"keyslots":[]`, code.LUKSReference, true},
		{"digest for another keyslot", `"keyslots":["0"]`, `"keyslots":["1"]`, code.LUKSReference, true},
		{"digest for the keyslot twice", `"keyslots":["0"]`, `"keyslots":["0","0"]`, code.LUKSReference, true},
		{"digest for no segment", `"segments":["0"]`, `"segments":[]`, code.LUKSReference, true},
		{"digest for another segment", `"segments":["0"]`, `"segments":["1"]`, code.LUKSReference, true},

		// segment
		{"linear segment", `"type":"crypt"`, `"type":"linear"`, code.LUKSSegment, true},
		{"segment of fixed size", `"size":"dynamic"`, `"size":"4096"`, code.LUKSSegment, true},
		{"segment with a tweak", iv, `"iv_tweak":"8"`, code.LUKSSegment, true},
		{"segment without a tweak", iv + `,`, ``, code.LUKSSegment, true},
		{"segment at 0", "SEGOFF", `"offset":"0"`, code.LUKSGeometry, true},
		{"segment over the keyslot", "SEGOFF", `"offset":"32768"`, code.LUKSGeometry, true},
		{"segment later", "SEGOFF", `"offset":"1048576"`, code.LUKSGeometry, false},
		{"segment far away", "SEGOFF", `"offset":"9223372036854775807"`, code.LUKSGeometry, true},
		{"segment offset negative", "SEGOFF", `"offset":"-4096"`, code.LUKSGeometry, true},
		{"sector size 512", `"sector_size":4096`, `"sector_size":512`, code.LUKSSectorSize, false},
		{"sector size 1024", `"sector_size":4096`, `"sector_size":1024`, code.LUKSSectorSize, true},
		{"sector size 0", `"sector_size":4096`, `"sector_size":0`, code.LUKSSectorSize, true},
		{"integrity", iv, iv + `,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`, code.LUKSIntegrity, false},
		{"integrity none", iv, iv + `,"integrity":{"type":"none","journal_encryption":"none","journal_integrity":"none"}`, code.LUKSIntegrity, true},
		{"integrity as text", iv, iv + `,"integrity":"hmac(sha256)"`, code.LUKSJSON, true},
		{"cipher of GCM", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-gcm-random"`, code.LUKSCipher, true},
		{"segment flags", iv, iv + `,"flags":["backup-previous"]`, code.LUKSReencrypt, true},

		// re-encryption, tokens, requirements; CVE-2025-58356
		{"reencrypt keyslot", `"type":"luks2"`, `"type":"reencrypt"`, code.LUKSReencrypt, true},
		{"reencrypt mode", `"type":"luks2"`, `"type":"luks2","mode":"decrypt","direction":"forward"`, code.LUKSReencrypt, true},
		{"token", `"tokens":{}`, `"tokens":{"0":{"type":"luks2-keyring","keyslots":["0"],"key_description":"x"}}`, code.LUKSTokens, true},
		{"no tokens object", `"tokens":{},`, ``, code.LUKSTokens, true},
		{"config flags", `"json_size"`, `"flags":["allow-discards"],"json_size"`, code.LUKSRequirements, true},
		{"requirements", `"json_size"`, `"requirements":{"mandatory":["online-reencrypt-v2"]},"json_size"`, code.LUKSRequirements, true},
		{"empty requirements", `"json_size"`, `"requirements":{},"json_size"`, code.LUKSRequirements, true},

		// number of objects
		{"second keyslot", `"keyslots":{`, `"keyslots":{"1":` + slot + `,`, objects, true},
		{"no keyslot", "KEYSLOTS", `{}`, objects, true},
		{"second segment", `"segments":{`, `"segments":{"1":{"type":"linear","offset":"0","size":"dynamic"},`, objects, true},
		{"second digest", `"digests":{`, `"digests":{"1":{"type":"pbkdf2","keyslots":[],"segments":[],"hash":"sha256","iterations":1000,"salt":"","digest":""},`, objects, true},
		{"keyslot number 32", `{"0":{"type":"luks2"`, `{"32":{"type":"luks2"`, code.LUKSReference, true},
		{"keyslot number 00", `{"0":{"type":"luks2"`, `{"00":{"type":"luks2"`, code.LUKSReference, true},
		{"segment number 1", `{"0":{"type":"crypt"`, `{"1":{"type":"crypt"`, code.LUKSReference, true},
		{"digest number 1", `{"0":{"type":"pbkdf2","keyslots"`, `{"1":{"type":"pbkdf2","keyslots"`, code.LUKSReference, true},

		// config
		{"no config", "CONFIG", ``, objects, true},
		{"json_size", `"json_size":"12288"`, `"json_size":"28672"`, code.LUKSGeometry, true},
		{"json_size absent", `"json_size":"12288",`, ``, code.LUKSGeometry, true},
		{"keyslots_size beyond the data", `"keyslots_size":"516096"`, `"keyslots_size":"520192"`, code.LUKSGeometry, true},
		{"keyslots_size 0", `"keyslots_size":"516096"`, `"keyslots_size":"0"`, code.LUKSGeometry, true},
		{"keyslots_size unaligned", `"keyslots_size":"516096"`, `"keyslots_size":"516095"`, code.LUKSGeometry, true},
		{"keyslots_size overflows", `"keyslots_size":"516096"`, `"keyslots_size":"9223372036854771712"`, code.LUKSGeometry, true},

		// JSON
		{"duplicate encryption", iv, iv + `,"encryption":"cipher_null-ecb"`, code.LUKSJSON, true},
		{"duplicate keyslots", `"tokens":{}`, `"tokens":{},"keyslots":{}`, code.LUKSJSON, true},
		{"duplicate number", `"keyslots":{`, `"keyslots":{"0":` + slot + `,`, code.LUKSJSON, true},
		{"field in capitals", `"sector_size"`, `"Sector_Size"`, code.LUKSJSON, true},
		{"second encryption in capitals", iv, iv + `,"Encryption":"cipher_null-ecb"`, code.LUKSJSON, true},
		{"unknown field at the top", `"tokens":{}`, `"tokens":{},"x":1`, code.LUKSJSON, true},
		{"unknown field in the keyslot", `"type":"luks2"`, `"type":"luks2","x":1`, code.LUKSJSON, true},
		{"unknown field in the config", `"json_size"`, `"x":1,"json_size"`, code.LUKSJSON, true},
		{"null", `"tokens":{}`, `"tokens":null`, code.LUKSJSON, true},
		{"keyslots as list", "KEYSLOTS", `[]`, code.LUKSJSON, true},
		{"not UTF-8", `"type":"luks2"`, "\"type\":\"luks\xff\"", code.LUKSJSON, true},
		{"second value", "END", `{}`, code.LUKSJSON, true},
		{"space before", `{"keyslots":{`, ` {"keyslots":{`, code.LUKSJSON, true},
		{"line end behind", "END", "\n", code.LUKSJSON, true},
		{"cut off", "ALL", `{"keyslots":{"0":{"type":"luks2"`, code.LUKSJSON, true},
		{"empty", "ALL", ``, code.LUKSJSON, true},
		{"deep", "ALL", strings.Repeat(`{"tokens":`, 500), code.LUKSJSON, true},
		{"deep lists", `"tokens":{}`, `"tokens":{"0":` + strings.Repeat("[", 400) + strings.Repeat("]", 400) + `}`, code.LUKSJSON, true},
		{"not terminated", "ALL", v.json() + strings.Repeat(" ", minHdrSize-binSize-len(v.json())), code.LUKSJSON, true},
	}
	if len(attacks) < 137 { // what docs/luks.md says
		t.Errorf("only %d attacks on the metadata", len(attacks))
	}
	for _, tc := range attacks {
		t.Run(tc.name, func(t *testing.T) {
			text := v.json()
			between := func(from, to string) string {
				i := strings.Index(text, from)
				return text[i : i+strings.Index(text[i:], to)+len(to)]
			}
			switch tc.old {
			case "KDF":
				tc.old = between(`"kdf":{`, `}}`)
			case "KEYSLOTS":
				tc.old = strings.TrimPrefix(between(`"keyslots":`, `}}}`), `"keyslots":`)
			case "DIGEST":
				tc.old, tc.new = between(`"digest":`, `}`), `"digest":`+tc.new+`}`
			case "SEGOFF":
				tc.old = `"offset":"548864"`
			case "CONFIG":
				tc.old = between(`,"config":`, `}`)
			case "ALL":
				tc.old = text
			case "END":
				tc.old, tc.new = text, text+tc.new
			}
			if !strings.Contains(text, tc.old) {
				t.Fatalf("%q is not in %s", tc.old, text)
			}
			v.refused(t, v.withJSON(strings.Replace(text, tc.old, tc.new, 1)), tc.want, tc.alone)
		})
	}
}

// Attacks on the binary headers; fixed says that checksums are made valid again.
func TestBinaryAttacks(t *testing.T) {
	v := newVictim(t)
	put64 := func(at int, n uint64) func([]byte) []byte {
		return func(h []byte) []byte { binary.BigEndian.PutUint64(h[at:], n); return h }
	}
	put := func(at int, s string) func([]byte) []byte {
		return func(h []byte) []byte { copy(h[at:], s); return h }
	}
	both := func(at int, s string) func([]byte) []byte {
		return func(h []byte) []byte { copy(h[at:], s); copy(h[minHdrSize+at:], s); return h }
	}
	for _, tc := range []struct {
		name   string
		change func([]byte) []byte
		fixed  bool
		want   code.Code
		alone  bool
	}{
		{"zeros", func(h []byte) []byte { clear(h); return h }, false, code.LUKSMagic, true},
		{"magic of the secondary", put(0, magicSecondary), true, code.LUKSMagic, true},
		{"LUKS1", put(offVersion, "\x00\x01"), true, code.LUKSVersion, true},
		{"version 3", put(offVersion, "\x00\x03"), true, code.LUKSVersion, true},
		{"header size 0", put64(offHdrSize, 0), true, code.LUKSHeaderSize, true},
		{"header size 4096", put64(offHdrSize, 4096), true, code.LUKSHeaderSize, true},
		{"header size 24 KiB", put64(offHdrSize, 24<<10), true, code.LUKSHeaderSize, true},
		{"header size 8 MiB", put64(offHdrSize, 8<<20), true, code.LUKSHeaderSize, true},
		{"header size huge", put64(offHdrSize, 1<<63), true, code.LUKSHeaderSize, true},
		{"header size 4 MiB", put64(offHdrSize, 4<<20), true, code.LUKSTruncated, true},
		{"header size 32 KiB", put64(offHdrSize, 32<<10), true, code.LUKSChecksum, true},
		{"header offset", put64(offHdrOffset, minHdrSize), true, code.LUKSHeaderOffset, true},
		{"checksum algorithm", both(offCsumAlg, "sha1\x00\x00"), true, code.LUKSChecksum, true},
		{"checksum algorithm crc32", both(offCsumAlg, "crc32\x00"), true, code.LUKSChecksum, true},
		{"checksum algorithm not terminated", both(offCsumAlg, strings.Repeat("s", 32)), true, code.LUKSPadding, true},
		{"checksum", func(h []byte) []byte { h[offCsum] ^= 1; return h }, false, code.LUKSChecksum, true},
		{"checksum's tail", both(offCsum+40, "x"), false, code.LUKSPadding, true},
		{"reserved", both(offPadding, "x"), true, code.LUKSPadding, true},
		{"reserved, 4K", both(offPadding4K+100, "x"), true, code.LUKSPadding, true},
		{"label's tail", both(offLabel+20, "x"), true, code.LUKSPadding, true},
		{"label with an escape sequence", both(offLabel, "\x1b[2J"), true, code.LUKSPadding, true},
		{"subsystem's tail", both(offSubsystem+20, "x"), true, code.LUKSPadding, true},
		{"UUID of another", both(offUUID, "11111111"), true, code.LUKSUUID, false},
		{"UUID in capitals", both(offUUID, "0123456A"), true, code.LUKSUUID, true},
		{"UUID empty", both(offUUID, strings.Repeat("\x00", lenUUID)), true, code.LUKSUUID, true},
		{"UUID with a path", both(offUUID, "../../../../"), true, code.LUKSUUID, true},
		{"UUID longer", both(offUUID+36, "0"), true, code.LUKSUUID, true},
		{"bytes after the JSON", both(minHdrSize-1, "x"), true, code.LUKSPadding, true},
		{"second JSON after the first", both(binSize+2000, "{}"), true, code.LUKSPadding, true},
		{"secondary gone", func(h []byte) []byte { clear(h[minHdrSize : 2*minHdrSize]); return h }, false, code.LUKSSecondary, true},
		{"secondary with primary's magic", put(minHdrSize, magicPrimary), true, code.LUKSSecondary, true},
		{"secondary newer", put64(minHdrSize+offSeqID, 99), true, code.LUKSSecondary, true},
		{"secondary elsewhere", put64(minHdrSize+offHdrOffset, 0), true, code.LUKSSecondary, true},
		{"secondary of another size", put64(minHdrSize+offHdrSize, 32<<10), true, code.LUKSSecondary, true},
		{"secondary's label", put(minHdrSize+offLabel, "x"), true, code.LUKSSecondary, true},
		{"secondary's UUID", put(minHdrSize+offUUID, "9"), true, code.LUKSSecondary, true},
		{"secondary's JSON", func(h []byte) []byte {
			b := h[minHdrSize : 2*minHdrSize]
			copy(b, bytes.Replace(b, []byte(`"iterations":1000`), []byte(`"iterations":1001`), 1))
			return h
		}, true, code.LUKSSecondary, true},
		{"secondary's checksum", func(h []byte) []byte { h[minHdrSize+offCsum] ^= 1; return h }, false, code.LUKSSecondary, true},
		{"keyslot wiped", func(h []byte) []byte { clear(h[2*minHdrSize:]); return h }, false, code.LUKSWrongKey, false},
		{"empty", func(h []byte) []byte { return nil }, false, code.LUKSTruncated, true},
		{"one byte", func(h []byte) []byte { return h[:1] }, false, code.LUKSTruncated, true},
		{"cut in the headers", func(h []byte) []byte { return h[:minHdrSize] }, false, code.LUKSTruncated, true},
		{"cut after the headers", func(h []byte) []byte { return h[:2*minHdrSize] }, false, code.LUKSTruncated, true},
		{"cut by one byte", func(h []byte) []byte { return h[:len(h)-1] }, false, code.LUKSTruncated, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := tc.change(bytes.Clone(v.header))
			if tc.fixed {
				fix(h, minHdrSize)
			}
			v.refused(t, h, tc.want, tc.alone)
		})
	}
}
