package cryptstore

import (
	"bytes"
	"testing"

	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
)

func TestDERLength(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want int // 0 is malformed
	}{
		{"\x30\x00", 2}, {"\x30\x01a", 3}, {"\x30\x01ab", 3}, {"\x30\x81\x01a", 4}, {"\x30\x82\x00\x01a", 5},
		{"", 0}, {"\x30", 0}, {"\x30\x01", 0}, {"\x30\x80", 0}, {"\x30\x85\x00\x00\x00\x00\x00", 0},
		{"\x30\x84\xff\xff\xff\xff", 0}, {"\x30\x82\x01", 0},
	} {
		if n, err := derLen([]byte(tc.in)); n != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%x: %d, %v", tc.in, n, err)
		}
	}
}

// What is taken in a format comes out of it and back the same.
func FuzzDecode(f *testing.F) {
	for _, format := range []string{formatRaw, formatPEM, formatHex, formatBase64} {
		f.Add(format, uint8(cryptstore.Blob), []byte("00ff"))
	}
	f.Add(formatPEM, uint8(cryptstore.X509Chain), []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add(formatPEM, uint8(cryptstore.PrivateKey), []byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, name string, typ uint8, b []byte) {
		kind := cryptstore.Type(typ)
		name, err := format(name, kind)
		if err != nil {
			return
		}
		in := secret.Copy(b)
		defer in.Zero()
		v, err := decode(in, kind, name)
		if err != nil {
			return
		}
		defer v.Zero()
		out, err := encode(v, kind, name)
		if err != nil {
			return // PEM around something that is not DER: Put refuses it
		}
		defer out.Zero()
		again, err := decode(out, kind, name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer again.Zero()
		if !bytes.Equal(again.Bytes(), v.Bytes()) {
			t.Errorf("%s: %x became %x", name, v.Bytes(), again.Bytes())
		}
	})
}
