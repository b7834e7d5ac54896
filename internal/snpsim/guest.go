package snpsim

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"fmt"

	"attestbox/internal/snp"
)

// DefaultPolicy allows SMT and nothing else; bit 17 must be one.
const DefaultPolicy = snp.PolicySMT | snp.PolicyReserved1

// GuestConfig is what the host says at a guest's launch.
type GuestConfig struct {
	Measurement [48]byte // the launch digest of what is really booted
	HostData    [32]byte
	// Policy 0 means DefaultPolicy.
	Policy uint64
	// VMPL of the guest's kernel: the least that it may put into requests.
	VMPL uint32
	// From the ID block; zeros without one.
	FamilyID, ImageID            [16]byte
	SVN                          uint32
	IDKeyDigest, AuthorKeyDigest [48]byte
	AuthorKeyEn                  bool
	// ReportID is random if nil: it names this one launch.
	ReportID *[32]byte
	// LaunchTCB and LaunchMitVector are the chip's current ones if nil.
	LaunchTCB       *snp.TCB
	LaunchMitVector *uint64
}

// Guest is one launched guest. Its fields do not change.
type Guest struct {
	Config    GuestConfig // with the defaults filled in
	ReportID  [32]byte
	LaunchTCB uint64 // raw TCB_VERSION
	LaunchMit uint64

	psp  *PSP
	vmrk [32]byte // VM root key, made at launch
}

// Launch starts a guest. A second Launch of the same configuration is another
// guest: REPORT_ID and VMRK differ.
func (p *PSP) Launch(c GuestConfig) *Guest {
	if c.Policy == 0 {
		c.Policy = uint64(DefaultPolicy)
	}
	g := &Guest{psp: p}
	rand.Read(g.vmrk[:])
	if c.ReportID != nil {
		g.ReportID = *c.ReportID
	} else {
		rand.Read(g.ReportID[:])
	}
	t := p.state.Current
	if c.LaunchTCB != nil {
		t = *c.LaunchTCB
	}
	g.LaunchTCB = snp.EncodeTCB(p.product, t)
	g.LaunchMit = p.state.MitVector
	if c.LaunchMitVector != nil {
		g.LaunchMit = *c.LaunchMitVector
	}
	g.Config = c
	return g
}

// PSP is the chip that the guest runs on.
func (g *Guest) PSP() *PSP { return g.psp }

// Report makes a signed report, 1184 bytes, as MSG_REPORT_REQ does. A VMPL
// below the guest's own, or above 3, is ErrInvalidParam.
func (g *Guest) Report(reportData [64]byte, vmpl uint32) ([]byte, error) {
	if vmpl < g.Config.VMPL || vmpl > 3 {
		return nil, fmt.Errorf("report for VMPL %d: %w", vmpl, ErrInvalidParam)
	}
	b := g.Fields(reportData, vmpl).Marshal()
	if g.psp.state.MaskChipKey {
		return b, nil
	}
	if err := g.psp.SignReport(b); err != nil {
		return nil, err
	}
	return b, nil
}

// Fields is the report before it is signed. Tests change it and call
// SignReport to make reports that no firmware would.
func (g *Guest) Fields(reportData [64]byte, vmpl uint32) *snp.Report {
	p, s, c := g.psp, &g.psp.state, &g.Config
	r := &snp.Report{
		Version:          s.ReportVersion,
		GuestSVN:         c.SVN,
		Policy:           snp.GuestPolicy(c.Policy),
		FamilyID:         c.FamilyID,
		ImageID:          c.ImageID,
		VMPL:             vmpl,
		SignatureAlgo:    snp.SigECDSAP384SHA384,
		CurrentTCB:       snp.EncodeTCB(p.product, s.Current),
		PlatformInfo:     s.Platform,
		KeyInfo:          snp.MakeKeyInfo(snp.SignedByVCEK, s.MaskChipKey, c.AuthorKeyEn),
		ReportData:       reportData,
		Measurement:      c.Measurement,
		HostData:         c.HostData,
		IDKeyDigest:      c.IDKeyDigest,
		AuthorKeyDigest:  c.AuthorKeyDigest,
		ReportID:         g.ReportID,
		ReportedTCB:      snp.EncodeTCB(p.product, s.Reported),
		CommittedTCB:     snp.EncodeTCB(p.product, s.Committed),
		CurrentVersion:   s.Firmware,
		CommittedVersion: s.Firmware,
		LaunchTCB:        g.LaunchTCB,
	}
	for i := range r.ReportIDMA { // no migration agent
		r.ReportIDMA[i] = 0xff
	}
	r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = p.product.CPUID()
	if !s.MaskChipID {
		r.ChipID = p.chipID
	}
	if s.ReportVersion >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = g.LaunchMit, s.MitVector
	}
	return r
}

// SignReport signs the first 0x2A0 bytes of a report of 1184 bytes with the
// VCEK and writes the signature into it, whatever the report says.
func (p *PSP) SignReport(report []byte) error {
	if len(report) != snp.ReportSize {
		return fmt.Errorf("signing a report: %d bytes, want %d", len(report), snp.ReportSize)
	}
	digest := sha512.Sum384(snp.SignedBytes(report))
	r, s, err := ecdsa.Sign(rand.Reader, p.vcek, digest[:])
	if err != nil {
		return fmt.Errorf("signing a report: %w", err)
	}
	return snp.PutSignature(report, r, s)
}

// ExtendedReport is Report and the host's table of certificates, padded to
// pages of 4096 bytes.
func (g *Guest) ExtendedReport(reportData [64]byte, vmpl uint32) (report, certs []byte, err error) {
	report, err = g.Report(reportData, vmpl)
	if err != nil {
		return nil, nil, err
	}
	return report, g.psp.paddedTable(), nil
}
