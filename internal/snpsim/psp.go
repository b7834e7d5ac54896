package snpsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/snp"
)

// State is what the platform's owner can set of a chip, and what its reports
// show of it.
type State struct {
	// Current, Committed and Reported are TCB versions: Reported at most
	// Committed at most Current, in every component.
	Current, Committed, Reported snp.TCB
	// Firmware is the version of the firmware, current and committed.
	Firmware snp.FirmwareVersion
	// Platform is PLATFORM_INFO.
	Platform snp.PlatformInfo
	// MaskChipID makes reports carry a CHIP_ID of zeros; MaskChipKey leaves
	// them unsigned, a signature of zeros. Both are SNP_CONFIG's.
	MaskChipID, MaskChipKey bool
	// MitVector is the current mitigation vector, in reports of version 5.
	MitVector uint64
	// ReportVersion is 3 or 5.
	ReportVersion uint32
}

// PSP is one simulated chip. It is safe for concurrent use; its state does not
// change after NewPSP.
type PSP struct {
	product  snp.Product
	state    State
	ca       *authority
	secret   [32]byte // fused into the chip: the VCEK and all keys come from it
	chipID   [64]byte
	now      time.Time
	vcek     *ecdsa.PrivateKey
	vcekCert *x509.Certificate
}

// Option changes a new chip.
type Option func(*PSP)

// WithTCB sets current, committed and reported TCB to t.
func WithTCB(t snp.TCB) Option {
	return func(p *PSP) { p.state.Current, p.state.Committed, p.state.Reported = t, t, t }
}

// WithState lets f change the chip's state.
func WithState(f func(*State)) Option { return func(p *PSP) { f(&p.state) } }

// WithReportVersion makes reports of version 3 or 5; 3 is the default.
func WithReportVersion(v uint32) Option { return func(p *PSP) { p.state.ReportVersion = v } }

// WithChipID sets CHIP_ID; it is random otherwise. On Turin only the first 8
// bytes count.
func WithChipID(id [64]byte) Option { return func(p *PSP) { p.chipID = id } }

// WithNow sets the moment at which certificates begin: validity starts one day
// earlier. The default is the clock's.
func WithNow(now time.Time) Option { return func(p *PSP) { p.now = now } }

// WithKeys signs with these keys instead of new ones, RSA of 4096 bits: making
// those takes seconds, so tests share them.
func WithKeys(ark, ask *rsa.PrivateKey) Option {
	return func(p *PSP) { p.ca = &authority{arkKey: ark, askKey: ask} }
}

// DefaultState is a patched platform of the product.
func DefaultState(product snp.Product) State {
	t := snp.TCB{BootLoader: 4, SNP: 27, Microcode: 219}
	switch product {
	case snp.Genoa:
		t = snp.TCB{BootLoader: 10, SNP: 24, Microcode: 84}
	case snp.Turin:
		t = snp.TCB{BootLoader: 1, TEE: 1, SNP: 4, Microcode: 80, FMC: 1, HasFMC: true}
	}
	return State{
		Current: t, Committed: t, Reported: t,
		Firmware:      snp.FirmwareVersion{Major: 1, Minor: 58, Build: 1},
		Platform:      snp.PlatformSMT | snp.PlatformECC | snp.PlatformAliasCheckComplete,
		MitVector:     0x3,
		ReportVersion: 3,
	}
}

// NewPSP makes a chip of the product with a chain of its own: ARK, ASK and
// VCEK. Without WithKeys that takes a few seconds.
func NewPSP(product snp.Product, opts ...Option) (*PSP, error) {
	if _, err := snp.ParseProduct(string(product)); err != nil {
		return nil, err
	}
	p := &PSP{product: product, state: DefaultState(product), now: time.Now()}
	rand.Read(p.secret[:])
	rand.Read(p.chipID[:])
	for _, o := range opts {
		o(p)
	}
	var err error
	if p.ca == nil {
		if p.ca, err = newKeys(); err != nil {
			return nil, err
		}
	}
	if p.ca.ark == nil {
		if err = p.ca.certify(product, p.now); err != nil {
			return nil, err
		}
	}
	return p, p.finish()
}

// AnotherChip makes a chip of the same product and vendor: the same ARK and
// ASK, another CHIP_ID and VCEK.
func (p *PSP) AnotherChip(opts ...Option) (*PSP, error) {
	q := &PSP{product: p.product, state: p.state, ca: p.ca, now: p.now}
	rand.Read(q.secret[:])
	rand.Read(q.chipID[:])
	for _, o := range opts {
		o(q)
	}
	if q.ca != p.ca {
		return nil, errors.New("another chip of the same vendor cannot have other keys")
	}
	return q, q.finish()
}

// SameChip is the same chip after its owner changed its state: a firmware
// update, another report version. The VCEK follows the reported TCB.
func (p *PSP) SameChip(f func(*State)) (*PSP, error) {
	q := &PSP{product: p.product, state: p.state, ca: p.ca, now: p.now, secret: p.secret, chipID: p.chipID}
	f(&q.state)
	return q, q.finish()
}

// finish checks the state and makes the VCEK for it.
func (p *PSP) finish() error {
	clear(p.chipID[p.product.ChipIDSize():])
	if err := p.checkState(); err != nil {
		return fmt.Errorf("making a chip: %w", err)
	}
	var err error
	if p.vcek, err = p.deriveVCEK(); err != nil {
		return err
	}
	p.vcekCert, err = p.ca.certifyVCEK(p)
	return err
}

func (p *PSP) checkState() error {
	s := &p.state
	if s.ReportVersion != 3 && s.ReportVersion != 5 {
		return fmt.Errorf("report version %d, want 3 or 5", s.ReportVersion)
	}
	for _, t := range []*snp.TCB{&s.Current, &s.Committed, &s.Reported} {
		t.HasFMC = p.product == snp.Turin
		if !t.HasFMC && t.FMC != 0 {
			return fmt.Errorf("a TCB of %s has no FMC", p.product)
		}
	}
	if !s.Current.AtLeast(s.Committed) || !s.Committed.AtLeast(s.Reported) {
		return errors.New("TCB: want reported <= committed <= current in every component")
	}
	if bad := s.Platform &^ snp.KnownPlatformInfo(s.ReportVersion); bad != 0 {
		return fmt.Errorf("platform info %v is not defined for report version %d", bad, s.ReportVersion)
	}
	return nil
}

// deriveVCEK makes the key from the chip's secret and the reported TCB, as the
// hardware does: after a firmware update it is another one.
func (p *PSP) deriveVCEK() (*ecdsa.PrivateKey, error) {
	info := binary.LittleEndian.AppendUint64([]byte("snp-sim VCEK "), snp.EncodeTCB(p.product, p.state.Reported))
	for n := range uint32(16) { // a candidate beyond the group's order is as good as impossible
		b, err := hkdf.Key(sha512.New384, p.secret[:], nil, string(binary.LittleEndian.AppendUint32(info, n)), 48)
		if err != nil {
			return nil, fmt.Errorf("deriving the VCEK: %w", err)
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), b); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("deriving the VCEK: no candidate is a key")
}

// Product is the chip's family.
func (p *PSP) Product() snp.Product { return p.product }

// State is the chip's state.
func (p *PSP) State() State { return p.state }

// ChipID is CHIP_ID as reports show it when it is not masked.
func (p *PSP) ChipID() [64]byte { return p.chipID }

// ARK is the root certificate, DER.
func (p *PSP) ARK() []byte { return p.ca.ark.Raw }

// ASK is the intermediate certificate, DER.
func (p *PSP) ASK() []byte { return p.ca.ask.Raw }

// VCEK is the certificate of the key that signs reports, DER.
func (p *PSP) VCEK() []byte { return p.vcekCert.Raw }
