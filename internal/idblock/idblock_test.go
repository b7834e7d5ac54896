package idblock_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"

	"attestbox/internal/idblock"
	"attestbox/internal/snp"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sample() *idblock.Block {
	b := &idblock.Block{GuestSVN: 3, Policy: snp.PolicySMT | snp.PolicyReserved1}
	for i := range b.LaunchDigest {
		b.LaunchDigest[i] = byte(i + 1)
	}
	copy(b.FamilyID[:], "family")
	copy(b.ImageID[:], "image")
	return b
}

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is what the public tool printed, see testdata/README.md.
func vector(t testing.TB) (block, auth, idDigest, authorDigest []byte) {
	t.Helper()
	raw, err := os.ReadFile("testdata/snp-create-id-block.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	b, a, ok := strings.Cut(lines[0], ",")
	if len(lines) != 3 || !ok {
		t.Fatalf("%d lines", len(lines))
	}
	return decode64(t, strings.TrimPrefix(b, "id-block=")), decode64(t, strings.TrimPrefix(a, "id-auth=")),
		decode64(t, strings.TrimPrefix(lines[1], "id_key_hash: ")), decode64(t, strings.TrimPrefix(lines[2], "author_key: "))
}

func publicKey(t testing.TB, name string) idblock.PublicKey {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	p, err := idblock.NewPublicKey(k.(*ecdsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPublicTool(t *testing.T) {
	block, auth, idDigest, authorDigest := vector(t)
	b, err := idblock.ParseBlock(block)
	if err != nil {
		t.Fatal(err)
	}
	a, err := idblock.ParseAuth(auth)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Marshal(), block) || !bytes.Equal(a.Marshal(), auth) {
		t.Error("the public tool's bytes come back as others")
	}
	if b.Policy != 0x30000 || b.GuestSVN != 0 || b.LaunchDigest[0] != 0x07 {
		t.Errorf("block %+v", b)
	}
	if err := errors.Join(a.Verify(b), a.VerifyAuthor()); err != nil {
		t.Error(err)
	}
	id, author := publicKey(t, "id-key.pub.pem"), publicKey(t, "author-key.pub.pem")
	if id != a.IDKey || author != *a.AuthorKey {
		t.Error("keys are written in another way than the public tool writes them")
	}
	if d := id.Digest(); !bytes.Equal(d[:], idDigest) {
		t.Errorf("ID key digest %x, want %x", d, idDigest)
	}
	if d := author.Digest(); !bytes.Equal(d[:], authorDigest) {
		t.Errorf("author key digest %x, want %x", d, authorDigest)
	}
}

func TestSignAndParse(t *testing.T) {
	id, author := newKey(t), newKey(t)
	for name, by := range map[string]*ecdsa.PrivateKey{"with an author key": author, "without": nil} {
		b := sample()
		a, err := idblock.Sign(b, id, by)
		if err != nil {
			t.Fatal(err)
		}
		b2, err := idblock.ParseBlock(b.Marshal())
		if err != nil || *b2 != *b {
			t.Errorf("%s: block %+v, %v", name, b2, err)
		}
		a2, err := idblock.ParseAuth(a.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a2.Marshal(), a.Marshal()) || (a2.AuthorKey == nil) != (by == nil) {
			t.Errorf("%s: comes back as something else", name)
		}
		if err := a2.Verify(b2); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := a2.VerifyAuthor(); (err == nil) != (by != nil) {
			t.Errorf("%s: author: %v", name, err)
		}
	}
	if _, err := idblock.Sign(sample(), id, id); err == nil {
		t.Error("a key vouches for itself")
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idblock.Sign(sample(), p256, nil); err == nil {
		t.Error("an ID key on P-256 signs")
	}
	if _, err := idblock.Sign(sample(), id, p256); err == nil {
		t.Error("an author key on P-256 signs")
	}
}

// Every byte of the block and of the authentication information counts: after
// any change it does not parse, or does not verify.
func TestFlippedBytes(t *testing.T) {
	b := sample()
	a, err := idblock.Sign(b, newKey(t), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range idblock.BlockSize {
		raw := b.Marshal()
		raw[i] ^= 1
		if b2, err := idblock.ParseBlock(raw); err == nil && !errors.Is(a.Verify(b2), idblock.ErrSignature) {
			t.Fatalf("byte 0x%02x of the block does not count", i)
		}
	}
	for i := range idblock.AuthSize {
		raw := a.Marshal()
		raw[i] ^= 1
		a2, err := idblock.ParseAuth(raw)
		if err != nil {
			if !errors.Is(err, idblock.ErrMalformed) {
				t.Fatalf("byte 0x%03x: %v", i, err)
			}
			continue
		}
		if a2.Verify(b) == nil && a2.VerifyAuthor() == nil {
			t.Fatalf("byte 0x%03x of the authentication information does not count", i)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, n := range []int{0, 1, 95, 97, 4096} {
		if _, err := idblock.ParseBlock(make([]byte, n)); !errors.Is(err, idblock.ErrMalformed) {
			t.Errorf("block of %d bytes: %v", n, err)
		}
	}
	for _, v := range []byte{0, 2} {
		raw := sample().Marshal()
		raw[0x50] = v
		if _, err := idblock.ParseBlock(raw); !errors.Is(err, idblock.ErrMalformed) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	for _, n := range []int{0, 96, 4095, 4097} {
		if _, err := idblock.ParseAuth(make([]byte, n)); !errors.Is(err, idblock.ErrMalformed) {
			t.Errorf("authentication information of %d bytes: %v", n, err)
		}
	}
	alone, err := idblock.Sign(sample(), newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := alone.Marshal()
	raw[4] = 0 // as some tools write it
	if a, err := idblock.ParseAuth(raw); err != nil || !bytes.Equal(a.Marshal(), raw) {
		t.Errorf("AUTHOR_KEY_ALGO 0 without an author key: %v", err)
	}
	raw[4] = 2
	if _, err := idblock.ParseAuth(raw); !errors.Is(err, idblock.ErrMalformed) {
		t.Errorf("AUTHOR_KEY_ALGO 2: %v", err)
	}
}

func TestCheck(t *testing.T) {
	if err := sample().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*idblock.Block){
		"no digest":    func(b *idblock.Block) { b.LaunchDigest = [48]byte{} },
		"no image ID":  func(b *idblock.Block) { b.ImageID = [16]byte{} },
		"no SVN":       func(b *idblock.Block) { b.GuestSVN = 0 },
		"DEBUG":        func(b *idblock.Block) { b.Policy |= snp.PolicyDebug },
		"MIGRATE_MA":   func(b *idblock.Block) { b.Policy |= snp.PolicyMigrateMA },
		"no bit 17":    func(b *idblock.Block) { b.Policy &^= snp.PolicyReserved1 },
		"unknown bits": func(b *idblock.Block) { b.Policy |= 1 << 40 },
	} {
		b := sample()
		change(b)
		if b.Check() == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	block, auth, _, _ := vector(f)
	f.Add(block)
	f.Add(auth)
	f.Add(make([]byte, idblock.AuthSize))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := idblock.ParseBlock(raw); err == nil {
			if !bytes.Equal(b.Marshal(), raw) {
				t.Fatal("an accepted block does not marshal to the same bytes")
			}
		} else if !errors.Is(err, idblock.ErrMalformed) {
			t.Fatal(err)
		}
		if a, err := idblock.ParseAuth(raw); err == nil {
			if !bytes.Equal(a.Marshal(), raw) {
				t.Fatal("accepted authentication information does not marshal to the same bytes")
			}
			a.Verify(sample())
			a.VerifyAuthor()
		} else if !errors.Is(err, idblock.ErrMalformed) {
			t.Fatal(err)
		}
	})
}

func TestIDs(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "00000000000000000000000000000000",
		"web":                              `77656200000000000000000000000000 ("web")`,
		"sixteen-letters.":                 `7369787465656e2d6c6574746572732e ("sixteen-letters.")`,
		"0011223344556677889900112233ABCD": "0011223344556677889900112233abcd",
		"77656200000000000000000000000000": `77656200000000000000000000000000 ("web")`,
	} {
		if id, err := idblock.ParseID(in); err != nil || idblock.ShowID(id) != want {
			t.Errorf("%q: %s, %v", in, idblock.ShowID(id), err)
		}
	}
	for _, in := range []string{"seventeen-letters", "a b", "tab\t", "caf\u00e9", "zz112233445566778899001122334455", "00112233445566778899001122334455a"} {
		if id, err := idblock.ParseID(in); err == nil {
			t.Errorf("%q: %x", in, id)
		}
	}
}
