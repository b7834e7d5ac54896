package luks

import (
	"bytes"
	"strings"
	"testing"

	"attestbox/internal/code"
)

// cryptsetup 2.6 and 2.8 give the keyslot of a volume key of 96 bytes this area.
func TestSuiteSizes(t *testing.T) {
	for name, want := range map[string][2]int64{
		IntegrityNone: {256000, 258048}, IntegrityHMAC: {384000, 385024}, IntegrityGCM: {128000, 131072},
		IntegrityChaCha: {128000, 131072}, IntegrityAEGIS128: {64000, 65536},
	} {
		s, err := SuiteNamed(name)
		if err != nil || int64(s.afSize()) != want[0] || s.areaSize() != want[1] || s.afSize()%areaSector != 0 {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, name := range []string{"", "aead", "hmac(sha256)", "NONE"} {
		if _, err := SuiteNamed(name); err == nil {
			t.Errorf("%q is served", name)
		}
	}
}

// The segment that cryptsetup luksFormat --integrity hmac-sha256 writes.
const hmacSegment = `"iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}}`

func TestHMACHeader(t *testing.T) {
	v := newVictimWith(t, IntegrityHMAC, nil)
	if !strings.Contains(v.json(), hmacSegment) || !strings.Contains(v.json(), `{"0":{"type":"luks2","key_size":96,`) {
		t.Errorf("metadata is %s", v.json())
	}
	if v.record.Integrity != IntegrityHMAC || v.record.KeyBytes != 96 || v.record.Cipher != Cipher {
		t.Errorf("record %+v", v.record)
	}
	vol, err := Open(bytes.NewReader(v.header), v.record, v.key)
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close()
	if vol.VolumeKey.Len() != 96 || vol.Suite.TagBytes != 32 {
		t.Errorf("volume %+v", vol)
	}
}

// What a host may write in place of the integrity that is registered.
func TestIntegrityAttacks(t *testing.T) {
	v := newVictimWith(t, IntegrityHMAC, nil)
	const object = `,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`
	for _, tc := range []struct {
		name, old, new string
		want           code.Code
		alone          bool
	}{
		{"integrity gone", object, ``, code.LUKSIntegrity, false},
		{"integrity none", `hmac(sha256)`, `none`, code.LUKSIntegrity, false},
		{"integrity crc32c", `hmac(sha256)`, `crc32c`, code.LUKSIntegrity, false},
		{"integrity hmac(sha1)", `hmac(sha256)`, `hmac(sha1)`, code.LUKSIntegrity, false},
		{"integrity aead", `hmac(sha256)`, `aead`, code.LUKSIntegrity, false},
		{"journal encrypted", `"journal_encryption":"none"`, `"journal_encryption":"cbc(aes)"`, code.LUKSIntegrity, true},
		{"journal's MAC", `"journal_integrity":"none"`, `"journal_integrity":"hmac(sha256)"`, code.LUKSIntegrity, true},
		{"journal absent", `,"journal_integrity":"none"`, ``, code.LUKSIntegrity, true},
		{"key size of its own", `"journal_integrity":"none"`, `"journal_integrity":"none","key_size":16`, code.LUKSJSON, true},
		{"integrity null", object, `,"integrity":null`, code.LUKSJSON, true},
		{"integrity twice", object, object + object, code.LUKSJSON, true},
		{"keyslot for 64 bytes", `"type":"luks2","key_size":96`, `"type":"luks2","key_size":64`, code.LUKSKeyslot, true},
		{"area's key of 96 bytes", `"encryption":"aes-xts-plain64","key_size":64`, `"encryption":"aes-xts-plain64","key_size":96`, code.LUKSArea, true},
		{"area for 64 bytes", `"size":"385024"`, `"size":"258048"`, code.LUKSAreaBounds, true},
		{"null cipher", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`, code.LUKSCipher, false},
		{"random IV", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-xts-random"`, code.LUKSCipher, false},
		{"GCM", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-gcm-random"`, code.LUKSCipher, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(v.json(), tc.old) {
				t.Fatalf("%q is not in %s", tc.old, v.json())
			}
			v.refused(t, v.withJSON(strings.Replace(v.json(), tc.old, tc.new, 1)), tc.want, tc.alone)
		})
	}
	// Another valid header of the same key and UUID, without integrity.
	bare := newVictim(t)
	_, err := Open(bytes.NewReader(bare.header), v.registered(bare.header), v.key)
	if err == nil {
		t.Error("a header without integrity opens where integrity is registered")
	}
}
