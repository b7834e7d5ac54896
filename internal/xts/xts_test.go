package xts

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/hex"
	"testing"

	other "golang.org/x/crypto/xts"
)

// IEEE 1619-2007 annex B, vector 10: XTS-AES-256, data unit 0xff.
func TestVector(t *testing.T) {
	key, _ := hex.DecodeString("2718281828459045235360287471352662497757247093699959574966967627" +
		"3141592653589793238462643383279502884197169399375105820974944592")
	plain := make([]byte, 512)
	for i := range plain {
		plain[i] = byte(i)
	}
	want := "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd"
	c, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 512)
	c.Encrypt(got, plain, 0xff)
	if hex.EncodeToString(got[:64]) != want {
		t.Errorf("got  %x\nwant %s", got[:64], want)
	}
	c.Decrypt(got, got, 0xff)
	if !bytes.Equal(got, plain) {
		t.Error("does not decrypt")
	}
}

func same(t *testing.T, key, data []byte, sector uint64) {
	t.Helper()
	ours, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	want, got := make([]byte, len(data)), make([]byte, len(data))
	theirs.Encrypt(want, data, sector)
	ours.Encrypt(got, data, sector)
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at sector %d: another ciphertext than x/crypto's", len(data), sector)
	}
	theirs.Decrypt(want, data, sector)
	ours.Decrypt(got, data, sector)
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at sector %d: another plaintext than x/crypto's", len(data), sector)
	}
	copy(got, data)
	ours.Encrypt(got, got, sector) // in place
	ours.Decrypt(got, got, sector)
	if !bytes.Equal(got, data) {
		t.Fatalf("%d bytes at sector %d: not its own inverse", len(data), sector)
	}
}

func TestAgainstXCrypto(t *testing.T) {
	for n := 0; n <= MaxSector; n += aes.BlockSize {
		key, data := make([]byte, KeySize), make([]byte, n)
		rand.Read(key)
		rand.Read(data)
		for _, sector := range []uint64{0, 1, uint64(n), 1<<32 + 8, 1<<63 | 7, 1<<64 - 1} {
			same(t, key, data, sector)
		}
	}
}

func FuzzAgainstXCrypto(f *testing.F) {
	f.Add(bytes.Repeat([]byte{7}, KeySize), bytes.Repeat([]byte{1, 2}, 256), uint64(5))
	f.Fuzz(func(t *testing.T, key, data []byte, sector uint64) {
		if len(key) != KeySize {
			if _, err := New(key); err == nil {
				t.Fatalf("a key of %d bytes was accepted", len(key))
			}
			return
		}
		same(t, key, data[:min(len(data), MaxSector)&^(aes.BlockSize-1)], sector)
	})
}

func TestMisuse(t *testing.T) {
	c, err := New(make([]byte, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for name, sizes := range map[string][2]int{"no whole block": {15, 15}, "shorter dst": {16, 32}, "longer dst": {32, 16}, "too long": {8192, 8192}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			c.Encrypt(make([]byte, sizes[0]), make([]byte, sizes[1]), 0)
		}()
	}
}

func BenchmarkEncrypt(b *testing.B) {
	key, buf := make([]byte, KeySize), make([]byte, 4096)
	ours, _ := New(key)
	theirs, _ := other.NewCipher(aes.NewCipher, key)
	for name, f := range map[string]func([]byte, []byte, uint64){"attestbox": ours.Encrypt, "x-crypto": theirs.Encrypt} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				f(buf, buf, 7)
			}
		})
	}
}
