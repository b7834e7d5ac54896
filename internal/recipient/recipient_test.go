package recipient

import (
	"bytes"
	"testing"

	"attestbox/internal/secret"
)

func TestRoundTrip(t *testing.T) {
	private, public, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer private.Zero()
	to, err := ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	by, err := ParsePrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	box, err := Seal(to, []byte("info"), []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Open(by, []byte("info"), box)
	if err != nil || string(plain.Bytes()) != "plain" {
		t.Fatalf("%q, %v", plain.Bytes(), err)
	}
	plain.Zero()
	if _, err := Open(by, []byte("other"), box); err == nil {
		t.Error("opened with another info")
	}
	for i := range box {
		bad := bytes.Clone(box)
		bad[i] ^= 1
		if _, err := Open(by, []byte("info"), bad); err == nil {
			t.Fatalf("byte %d flipped: opened", i)
		}
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other, []byte("info"), box); err == nil {
		t.Error("another key opened it")
	}
}

func TestMalformedKeys(t *testing.T) {
	private, public, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer private.Zero()
	swapped := secret.Copy(public)
	defer swapped.Zero()
	for _, b := range [][]byte{nil, []byte("x"), private.Bytes(), append(bytes.Clone(public), public...), public[:len(public)-30],
		[]byte("-----BEGIN " + pemPublic + "-----\nAAAA\n-----END " + pemPublic + "-----\n")} {
		if _, err := ParsePublic(b); err == nil {
			t.Errorf("%.60q: accepted as a public key", b)
		}
	}
	for _, b := range []*secret.Bytes{secret.New(0), swapped, secret.Copy([]byte("-----BEGIN " + pemPrivate + "-----\nAAAA\n-----END " + pemPrivate + "-----\n"))} {
		if _, err := ParsePrivate(b); err == nil {
			t.Error("accepted as a private key")
		}
	}
}
