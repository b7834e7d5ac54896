// Package snpsimtest hands simulated chips to tests. RSA keys of 4096 bits are
// made once per test binary and shared by its chips.
package snpsimtest

import (
	"crypto/rand"
	"crypto/rsa"
	"sync"
	"testing"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

func keyOnce() func() (*rsa.PrivateKey, error) {
	return sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 4096) })
}

var keys = [...]func() (*rsa.PrivateKey, error){keyOnce(), keyOnce(), keyOnce()}

// PSP makes a chip of the product. Its vendor has the same keys in every call.
func PSP(t testing.TB, product snp.Product, opts ...snpsim.Option) *snpsim.PSP {
	t.Helper()
	return chip(t, 0, 1, product, opts)
}

// Stranger makes a chip whose ARK has another key under the same names, and
// shares only its ASK's key with what PSP makes: no verifier that was given
// PSP's root may accept it.
func Stranger(t testing.TB, product snp.Product, opts ...snpsim.Option) *snpsim.PSP {
	t.Helper()
	return chip(t, 2, 1, product, opts)
}

func chip(t testing.TB, ark, ask int, product snp.Product, opts []snpsim.Option) *snpsim.PSP {
	t.Helper()
	arkKey, err := keys[ark]()
	if err != nil {
		t.Fatal(err)
	}
	askKey, err := keys[ask]()
	if err != nil {
		t.Fatal(err)
	}
	p, err := snpsim.NewPSP(product, append([]snpsim.Option{snpsim.WithKeys(arkKey, askKey)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
