package appraise

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"fmt"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// Options of Verify. The zero value is the strict default.
type Options struct {
	// Product, if set, is the only product accepted.
	Product snp.Product
	// Version2As accepts version 2 reports, which do not name their product,
	// as this product; empty refuses them.
	Version2As snp.Product
	// RequireCRL refuses where no revocation list is given.
	RequireCRL bool
	// CRLGrace is how long a list counts after its next update was due.
	CRLGrace time.Duration
	// Cache remembers verified chains; nil verifies each time.
	Cache *ChainCache
}

// Verified is a report whose signature, chain and binding to its VEK have been
// verified. Only Verify makes one.
type Verified struct {
	report   *snp.Report
	product  snp.Product
	chain    *chain
	findings []Finding
}

// Report is a copy of the report.
func (v *Verified) Report() *snp.Report { r := *v.report; return &r }

// Product is the product that report, VEK and root agree on.
func (v *Verified) Product() snp.Product { return v.product }

// ChipID is CHIP_ID. It identifies a chip only where SigningKey is the VCEK.
func (v *Verified) ChipID() [64]byte { return v.report.ChipID }

// SigningKey is the kind of key that signed: VCEK or VLEK.
func (v *Verified) SigningKey() snp.SigningKey { return v.chain.kind }

// CSPID is the cloud provider that a VLEK belongs to; empty for a VCEK.
func (v *Verified) CSPID() string { return v.chain.ext.CSPID }

// ReportedTCB is REPORTED_TCB, taken apart for the product.
func (v *Verified) ReportedTCB() snp.TCB { return snp.DecodeTCB(v.product, v.report.ReportedTCB) }

// Root is the root that the chain ends in.
func (v *Verified) Root() *Root { return v.chain.root }

// AMD says whether the root is one of AMD's own.
func (v *Verified) AMD() bool { return v.chain.root.amd }

// Findings is what Verify looked at, all of it passed.
func (v *Verified) Findings() []Finding { return append([]Finding(nil), v.findings...) }

// Verify does the cryptography of an SNP report: its form, the chain from its
// VEK to a pinned root of its product, the certificates' validity at now,
// revocation, the signature, and that the VEK is the one of this chip and TCB.
// It says nothing about what the report states; that is Appraise's.
//
// Refused evidence gives a *Refusal with a code; there is no other error.
func Verify(report []byte, e Endorsements, roots *Roots, now time.Time, opt Options) (*Verified, error) {
	cs := &checks{}
	r, err := snp.Parse(report)
	if err != nil {
		cs.check(false, code.ReportMalformed, "REPORT", err.Error(), fmt.Sprintf("%d bytes, version 3 to 5, reserved bytes zero", snp.ReportSize))
		return nil, refusal(cs.list)
	}
	product := checkForm(cs, r, opt)
	if cs.failed() {
		return nil, refusal(cs.list)
	}
	ch, ce := opt.Cache.get(e, roots, product)
	if ce != nil {
		cs.check(false, ce.code, ce.field, ce.err.Error(), fmt.Sprintf("a chain of VEK and ASK to a trusted ARK of %s", product))
		return nil, refusal(cs.list)
	}
	cs.check(true, "", "CHAIN", fmt.Sprintf("%s < %s < %s", ch.vek.Subject.CommonName, ch.ask.Subject.CommonName, ch.root.Name()), "signatures up to a trusted ARK of "+string(product))
	if !ch.root.amd {
		cs.note(NotAMD)
	}
	ch.within(cs, now)
	ch.notRevoked(cs, now, opt)
	cs.check(verifySignature(r, report, ch.key), code.ReportSignature, "SIGNATURE", "ECDSA P-384 with SHA-384", "valid under the VEK")
	ch.bind(cs, r, product)
	if cs.failed() {
		return nil, refusal(cs.list)
	}
	return &Verified{report: r, product: product, chain: ch, findings: cs.list}, nil
}

// checkForm judges what must hold before a key is looked for, and returns the
// product.
func checkForm(cs *checks, r *snp.Report, opt Options) snp.Product {
	wantVersion := "3 to 5"
	versionOK := r.Version >= 3
	if opt.Version2As != "" {
		wantVersion, versionOK = "2 to 5", true
	}
	cs.check(versionOK, code.ReportVersion, "VERSION", fmt.Sprint(r.Version), wantVersion)
	if r.Version == 2 && !versionOK {
		cs.note("version 2 counts only when it is asked for with the product named")
	}
	cs.check(r.SignatureAlgo == snp.SigECDSAP384SHA384, code.ReportMalformed, "SIGNATURE_ALGO", fmt.Sprint(r.SignatureAlgo), "1 (ECDSA P-384 with SHA-384)")
	cs.check(r.KeyInfo.Reserved() == 0, code.ReportMalformed, "KEY_INFO", fmt.Sprintf("0x%x", uint32(r.KeyInfo)), "reserved bits 0")
	cs.check(!r.KeyInfo.MaskChipKey(), code.ReportMasked, "KEY_INFO.MASK_CHIP_KEY", bit(r.KeyInfo.MaskChipKey()), "0")
	key := r.KeyInfo.SigningKey()
	cs.check(key == snp.SignedByVCEK || key == snp.SignedByVLEK, code.VEKKind, "KEY_INFO.SIGNING_KEY", key.String(), "VCEK or VLEK")
	product, err := opt.Version2As, error(nil)
	if r.Version > 2 {
		product, err = r.Product()
	}
	switch {
	case err != nil:
		cs.check(false, code.ReportProduct, "CPUID", err.Error(), "Milan, Genoa or Turin")
	case r.Version > 2:
		cs.check(opt.Product == "" || product == opt.Product, code.ReportProduct, "CPUID",
			fmt.Sprintf("family 0x%02x model 0x%02x stepping %d: %s", r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping, product), orAny(opt.Product))
	case versionOK:
		cs.check(opt.Product == "" || product == opt.Product, code.ReportProduct, "PRODUCT", string(product)+" as named by the caller", orAny(opt.Product))
	}
	return product
}

// bind checks that the VEK is the one that this report must be signed with:
// kind, product, TCB, and chip.
func (c *chain) bind(cs *checks, r *snp.Report, product snp.Product) {
	cs.check(c.kind == r.KeyInfo.SigningKey(), code.VEKKind, "VEK.KIND", c.kind.String(), r.KeyInfo.SigningKey().String()+" as in SIGNING_KEY")
	cs.check(c.ext.Product == product, code.VEKExtension, "VEK.PRODUCT", c.ext.ProductName, string(product))
	cs.check(c.ext.TCB == r.ReportedTCB, code.VEKTCB, "VEK.TCB", tcbString(product, c.ext.TCB), tcbString(product, r.ReportedTCB)+" as in REPORTED_TCB")
	if c.kind == snp.SignedByVLEK {
		cs.state("VEK.CSP_ID", c.ext.CSPID, "a VLEK vouches for a provider's chip, not for one chip")
		return
	}
	size := product.ChipIDSize()
	cs.check(r.ChipID != [64]byte{}, code.VEKChip, "CHIP_ID", fmt.Sprintf("%x", r.ChipID[:size]), "not zero")
	var want [64]byte
	copy(want[:], c.ext.HWID)
	cs.check(len(c.ext.HWID) == size && want == r.ChipID, code.VEKChip, "VEK.HWID", fmt.Sprintf("%x", c.ext.HWID), fmt.Sprintf("%x as in CHIP_ID", trim(r.ChipID, size)))
}

// verifySignature checks the report's signature by key.
func verifySignature(r *snp.Report, raw []byte, key *ecdsa.PublicKey) bool {
	R, S, err := r.SignatureRS()
	if err != nil {
		return false
	}
	digest := sha512.Sum384(snp.SignedBytes(raw))
	return ecdsa.Verify(key, digest[:], R, S)
}

// trim is the part of a chip ID worth printing: size bytes, or all of it where
// the rest is not zero.
func trim(id [64]byte, size int) []byte {
	for _, b := range id[size:] {
		if b != 0 {
			return id[:]
		}
	}
	return id[:size]
}

func tcbString(p snp.Product, raw uint64) string {
	s := snp.DecodeTCB(p, raw).String()
	if !snp.CleanTCB(p, raw) {
		s += fmt.Sprintf(" reserved bytes in 0x%016x", raw)
	}
	return s
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func orAny(p snp.Product) string {
	if p == "" {
		return "Milan, Genoa or Turin"
	}
	return string(p)
}
