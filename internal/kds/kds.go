// Package kds finds the VCEK certificate of a chip: in a folder, and from AMD's
// Key Distribution Service where that is switched on. It follows AMD 57230,
// "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification", chapter 4.
//
// It is a cache and no judge: a certificate is taken if it names the product,
// chip and TCB that were asked for and passes Config.Check, and internal/appraise
// verifies it at every use. VLEKs are not served here: the KDS hands them to cloud providers only,
// and they come with the evidence.
//
// Who sends evidence chooses the CHIP_ID in it, before anything is verified. So
// the network is asked only for chips that the caller allows, at most once per
// chip and interval, with bounded size and time, and the folder never grows by
// what was not asked for.
package kds

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/appraise"
	"attestbox/internal/snp"
)

// AMD is the base URL of AMD's service.
const AMD = "https://kdsintf.amd.com"

// Limits of what is read, in bytes.
const (
	maxCert  = 16 << 10
	maxChain = 64 << 10
	maxCRL   = 1 << 20
)

// ErrNotFound means that no certificate is at hand and the network may not be
// asked, or has none.
var ErrNotFound = errors.New("no VCEK certificate at hand")

// LaterError means that the network may have the certificate, but not now.
type LaterError struct {
	After time.Duration // how long to wait before asking again
	Err   error
}

func (e *LaterError) Error() string {
	return fmt.Sprintf("%v, try again in %v", e.Err, e.After.Round(time.Second))
}
func (e *LaterError) Unwrap() error { return e.Err }

// Source is where a verifier gets the certificates for a report that came
// without them. ASK and ARK may be nil: the verifier's roots bring their own.
type Source interface {
	VEK(ctx context.Context, product snp.Product, chipID [64]byte, reportedTCB uint64) (vek, ask, ark []byte, err error)
}

// Config of a Cache.
type Config struct {
	// Dir is the folder; it is made if it is not there.
	Dir string
	// BaseURL is the service, for example AMD; empty never asks the network.
	// It must be https, except on a loopback address.
	BaseURL string
	// Allow says for which chips the network may be asked; nil allows none.
	Allow func(product snp.Product, chipID [64]byte) bool
	// Check says whether certificates and lists end in a trusted root. What the
	// service sends is kept only if it passes: a forged one would outlast the
	// forger and refuse a chip for good. nil keeps everything.
	Check func(ctx context.Context, product snp.Product, e appraise.Endorsements) error
	// Client is used for the network; nil makes one.
	Client *http.Client
	// Timeout of one request; 0 means 10 s.
	Timeout time.Duration
	// Interval between two requests for one chip; 0 means 10 s, which is what
	// AMD throttles to. After failures of the service itself, none is asked
	// for a while, which doubles up to an hour.
	Interval time.Duration
	// CRLAge is how old a revocation list may be before the network is asked
	// for another; 0 means a day.
	CRLAge time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Cache is the folder, and the network behind it. It is safe for concurrent
// use.
type Cache struct {
	Config
	net *fetcher
}

var _ Source = (*Cache)(nil)

// Open makes a Cache. It touches the folder, not the network.
func Open(c Config) (*Cache, error) {
	if c.Dir == "" {
		return nil, errors.New("opening certificate cache: no folder given")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Timeout, 10*time.Second)
	def(&c.Interval, 10*time.Second)
	def(&c.CRLAge, 24*time.Hour)
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening certificate cache: %w", err)
	}
	cache := &Cache{Config: c}
	if c.BaseURL != "" {
		f, err := newFetcher(&cache.Config)
		if err != nil {
			return nil, fmt.Errorf("opening certificate cache: %w", err)
		}
		cache.net = f
	}
	return cache, nil
}

// VEK returns the VCEK of a chip at a TCB (raw, as in REPORTED_TCB), and ASK
// and ARK of the product where the folder has them. Errors: ErrNotFound, a
// *LaterError, ctx's error, or a failure of the folder.
func (c *Cache) VEK(ctx context.Context, product snp.Product, chipID [64]byte, reportedTCB uint64) (vek, ask, ark []byte, err error) {
	if _, err := snp.ParseProduct(string(product)); err != nil {
		return nil, nil, nil, err
	}
	if chipID == [64]byte{} {
		return nil, nil, nil, fmt.Errorf("%w: CHIP_ID is zero", ErrNotFound)
	}
	vek, err = c.read(c.vekPath(product, chipID, reportedTCB), maxCert)
	if err == nil {
		err = matches(vek, product, chipID, reportedTCB)
	}
	if err == nil {
		ask, ark = c.chain(ctx, product, vek)
		return vek, ask, ark, nil
	}
	if vek, err = c.fetchVEK(ctx, product, chipID, reportedTCB, err); err != nil {
		return nil, nil, nil, err
	}
	ask, ark = c.chain(ctx, product, vek)
	if err := c.check(ctx, product, appraise.Endorsements{VEK: vek, ASK: ask, ARK: ark}); err != nil {
		return nil, nil, nil, &LaterError{c.Interval, fmt.Errorf("the service sent a certificate that no trusted root vouches for: %w", err)}
	}
	return vek, ask, ark, c.write(c.vekPath(product, chipID, reportedTCB), vek)
}

func (c *Cache) check(ctx context.Context, product snp.Product, e appraise.Endorsements) error {
	if c.Check == nil {
		return nil
	}
	return c.Check(ctx, product, e)
}

// Endorsements is VEK in the form that appraise takes.
func (c *Cache) Endorsements(ctx context.Context, product snp.Product, chipID [64]byte, reportedTCB uint64) (appraise.Endorsements, error) {
	vek, ask, ark, err := c.VEK(ctx, product, chipID, reportedTCB)
	return appraise.Endorsements{VEK: vek, ASK: ask, ARK: ark}, err
}

// fetchVEK asks the network for what the folder does not have; why says why.
// What it returns is not checked and not kept yet.
func (c *Cache) fetchVEK(ctx context.Context, product snp.Product, chipID [64]byte, tcb uint64, why error) ([]byte, error) {
	switch {
	case c.net == nil:
		return nil, fmt.Errorf("%w: %w, and the network is not to be asked", ErrNotFound, why)
	case c.Allow == nil || !c.Allow(product, chipID):
		return nil, fmt.Errorf("%w: %w, and the chip is not one that the network may be asked for", ErrNotFound, why)
	case len(hexID(product, chipID)) != 2*product.ChipIDSize():
		// Whoever sends it could make as many names of one chip as he likes.
		return nil, fmt.Errorf("%w: CHIP_ID has bytes that %s does not have", ErrNotFound, product)
	case !snp.CleanTCB(product, tcb):
		return nil, fmt.Errorf("%w: TCB 0x%016x has reserved bytes", ErrNotFound, tcb)
	}
	vek, err := c.net.get(ctx, string(product)+"/"+hexID(product, chipID), vekURL(product, chipID, tcb), maxCert)
	if err != nil {
		return nil, err
	}
	if err := matches(vek, product, chipID, tcb); err != nil {
		return nil, &LaterError{c.Interval, fmt.Errorf("the service sent something else: %w", err)}
	}
	return vek, nil
}

// Put adds a certificate that came in another way, as from the host's firmware
// tools. It must be the VCEK of a product and chip; nothing else is looked at.
func (c *Cache) Put(vek []byte) error {
	e, err := parse(vek)
	if err != nil {
		return fmt.Errorf("adding certificate: %w", err)
	}
	var id [64]byte
	copy(id[:], e.HWID)
	return c.write(c.vekPath(e.Product, id, e.TCB), vek)
}

// chain is ASK and ARK for a VEK, from the folder or the network; nil where
// neither has them, or they are not its, which is no error.
func (c *Cache) chain(ctx context.Context, product snp.Product, vek []byte) (ask, ark []byte) {
	decode := func(b []byte) bool {
		var err error
		if ask, ark, err = appraise.DecodeChain(b); err == nil {
			err = c.check(ctx, product, appraise.Endorsements{VEK: vek, ASK: ask, ARK: ark})
		}
		return err == nil
	}
	path := filepath.Join(c.Dir, string(product), "cert_chain.pem")
	if b, err := c.read(path, maxChain); err == nil && decode(b) {
		return ask, ark
	}
	if c.net == nil {
		return nil, nil
	}
	b, err := c.net.get(ctx, string(product)+"/cert_chain", "/vcek/v1/"+string(product)+"/cert_chain", maxChain)
	if err != nil || !decode(b) || c.write(path, b) != nil {
		return nil, nil
	}
	return ask, ark
}

// CRL is the latest revocation list of a product in DER; nil where there is
// none. A list older than CRLAge is asked for again; where that fails the old
// one is returned, whose age appraise judges.
func (c *Cache) CRL(ctx context.Context, product snp.Product) ([]byte, error) {
	if _, err := snp.ParseProduct(string(product)); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, string(product), "crl.der")
	old, err := c.read(path, maxCRL)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if st, err := os.Stat(path); c.net == nil || err == nil && c.Now().Sub(st.ModTime()) < c.CRLAge {
		return old, nil
	}
	b, err := c.net.get(ctx, string(product)+"/crl", "/vcek/v1/"+string(product)+"/crl", maxCRL)
	if err != nil {
		return old, nil
	}
	genuine := func(list []byte) bool {
		return c.check(ctx, product, appraise.Endorsements{CRL: list}) == nil
	}
	fresh, err := x509.ParseRevocationList(b)
	if err != nil || !genuine(b) {
		return old, nil
	}
	if before, err := x509.ParseRevocationList(old); err == nil && genuine(old) && fresh.ThisUpdate.Before(before.ThisUpdate) {
		return old, nil // never back
	}
	return b, c.write(path, b)
}

func (c *Cache) vekPath(product snp.Product, chipID [64]byte, tcb uint64) string {
	return filepath.Join(c.Dir, string(product), fmt.Sprintf("vcek-%s-%016x.der", hexID(product, chipID), tcb))
}

// hexID is the chip as the KDS names it. A CHIP_ID with bytes where the product
// has none keeps them, and so meets no certificate.
func hexID(product snp.Product, chipID [64]byte) string {
	n := product.ChipIDSize()
	for _, b := range chipID[n:] {
		if b != 0 {
			return hex.EncodeToString(chipID[:])
		}
	}
	return hex.EncodeToString(chipID[:n])
}

// vekURL is the path and query of 57230, section "Get VCEK".
func vekURL(product snp.Product, chipID [64]byte, raw uint64) string {
	t := snp.DecodeTCB(product, raw)
	q := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t.BootLoader, t.TEE, t.SNP, t.Microcode)
	if t.HasFMC {
		q = fmt.Sprintf("fmcSPL=%02d&", t.FMC) + q
	}
	return fmt.Sprintf("/vcek/v1/%s/%s?%s", product, hexID(product, chipID), q)
}

func parse(der []byte) (*appraise.VEKExtensions, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("not a certificate in DER: %w", err)
	}
	e, err := appraise.ParseVEK(cert)
	if err != nil {
		return nil, err
	}
	if len(e.HWID) == 0 {
		return nil, errors.New("the certificate is a VLEK's")
	}
	return e, nil
}

// matches checks that a certificate is the one that was asked for.
func matches(der []byte, product snp.Product, chipID [64]byte, tcb uint64) error {
	e, err := parse(der)
	if err != nil {
		return err
	}
	var id [64]byte
	copy(id[:], e.HWID)
	if e.Product != product || id != chipID || e.TCB != tcb {
		return errors.New("the certificate is of another chip or TCB")
	}
	return nil
}

// read reads a file of at most max bytes.
func (c *Cache) read(path string, max int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > max {
		return nil, fmt.Errorf("%q is no regular file of at most %d bytes", path, max)
	}
	b, err := os.ReadFile(path)
	if err == nil && bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) && filepath.Ext(path) == ".der" {
		if block, _ := pem.Decode(b); block != nil { // put there by hand
			b = block.Bytes
		}
	}
	return b, err
}

// write writes a file whole or not at all.
func (c *Cache) write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing certificate cache: %w", err)
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("writing certificate cache: %w", err)
	}
	return nil
}
