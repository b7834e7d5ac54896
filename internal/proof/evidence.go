package proof

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/snp"
)

// Roles that need no grant to serve.
const (
	RoleClient = "client"
	// RoleAttester asks for trust to attest to programs (rule 7).
	RoleAttester = "attester"
)

// Endorsement is one link of a chain: issuer vouches for subject.
type Endorsement struct {
	Kind            string // of the subject: "ask", then "vek"
	Issuer, Subject claim.Key
}

// Evidence is what verified evidence states, in the words of the policy
// language. FromSNP and FromEnclave make it.
type Evidence struct {
	platform    string
	chain       []Endorsement // of amd-sev-snp
	attester    claim.Key
	issuer      claim.Key         // of attestd-program: it certified the attester
	vm          claim.Measurement // of attestd-program: what the attester speaks for
	measurement claim.Measurement // with the instance
	chip        string            // hex; empty where nothing vouches for a chip
	reportID    string            // hex
	props       map[string]string
	subject     claim.Key // zero: nobody asks to be admitted
	role        string
	root        string
	amd         bool
}

// FromSNP makes evidence of a verified report. subject is the key that wants to
// be admitted; the caller has checked that REPORT_DATA binds it. Without a
// subject (the zero Key) the environment alone is proved, as the launch
// protocol needs. role is what the subject asks for; "" is RoleClient.
//
// The caller appraises the report too (AppraisePolicy): properties that policy
// does not name take their defaults there.
func FromSNP(v *appraise.Verified, subject claim.Key, role string) (*Evidence, error) {
	if v == nil {
		return nil, errors.New("evidence of SEV-SNP: no verified report")
	}
	if v.Report().HostData == [32]byte{} {
		return nil, errors.New("evidence of SEV-SNP: HOST_DATA is zero, so that no instance is named")
	}
	return fromSNP(v, subject, role)
}

func fromSNP(v *appraise.Verified, subject claim.Key, role string) (*Evidence, error) {
	r, product := v.Report(), v.Product()
	e := &Evidence{platform: claim.AMDSEVSNP, subject: subject, role: role, root: v.Root().Name(), amd: v.AMD(), reportID: hex.EncodeToString(r.ReportID[:])}
	e.measurement = claim.Measurement{Digest: hex.EncodeToString(r.Measurement[:])}
	if r.HostData != [32]byte{} {
		e.measurement.Instance = hex.EncodeToString(r.HostData[:])
	}
	kind := v.SigningKey().String()
	arkDER, askDER, vekDER := v.SPKIs()
	ark, err := claim.KeyOfSPKI("ARK-"+string(product), arkDER)
	if err != nil {
		return nil, fmt.Errorf("evidence of SEV-SNP: ARK: %w", err)
	}
	ask, err := claim.KeyOfSPKI("ASK-"+string(product), askDER)
	if err != nil {
		return nil, fmt.Errorf("evidence of SEV-SNP: ASK: %w", err)
	}
	if e.attester, err = claim.KeyOfSPKI(kind, vekDER); err != nil {
		return nil, fmt.Errorf("evidence of SEV-SNP: VEK: %w", err)
	}
	e.chain = []Endorsement{{"ask", ark, ask}, {"vek", ask, e.attester}}
	e.props = properties(v, r, product)
	e.chip = e.props["chip"]
	return e, e.checkRole()
}

// FromEnclave makes evidence of a simulated enclave's attestation, whose
// signature by platformKey the caller has verified: measurement is the SHA-256
// of the program, instance may be zero.
func FromEnclave(platformKey claim.Key, measurement, instance [32]byte, subject claim.Key, role string) (*Evidence, error) {
	if platformKey.IsZero() || subject.IsZero() {
		return nil, errors.New("evidence of a simulated enclave: the platform key or the key that it speaks for is missing")
	}
	e := &Evidence{platform: claim.SimulatedEnclave, attester: platformKey, subject: subject, role: role, root: "simulated enclave " + appraise.NotAMD}
	e.measurement.Digest = hex.EncodeToString(measurement[:])
	if instance != [32]byte{} {
		e.measurement.Instance = hex.EncodeToString(instance[:])
	}
	return e, e.checkRole()
}

// AttestdProgram is the platform of a program for which its VM's attestd speaks.
// No policy names it: the VM's measurement is-trusted-for-attestation.
const AttestdProgram = "attestd-program"

// FromProgram makes evidence of a program in a VM. The caller has verified the
// attester's admission certificate, which issuer made and which says that
// attester speaks for vm, its statement about the program and the program's
// answer. program is the program's measurement; its instance is the VM's. chip
// is the VM's, hex, or empty.
func FromProgram(issuer, attester claim.Key, vm claim.Measurement, chip string, program [32]byte, subject claim.Key, role string) (*Evidence, error) {
	if issuer.IsZero() || attester.IsZero() || subject.IsZero() || vm.Digest == "" || vm.Instance == "" {
		return nil, errors.New("evidence of a program: a key, or the instance of the VM, is missing")
	}
	e := &Evidence{platform: AttestdProgram, issuer: issuer, attester: attester, vm: vm, chip: chip, subject: subject, role: role, root: "attestd"}
	e.measurement = claim.Measurement{Digest: hex.EncodeToString(program[:]), Instance: vm.Instance}
	return e, e.checkRole()
}

func (e *Evidence) checkRole() error {
	if e.role == "" {
		e.role = RoleClient
	}
	switch {
	case !claim.ValidRole(e.role):
		return fmt.Errorf("evidence: role %.40q", e.role)
	case e.role == RoleAttester && e.subject.IsZero():
		return errors.New("evidence: the role of attester without a key")
	}
	return nil
}

// Platform is the platform's type.
func (e *Evidence) Platform() string { return e.platform }

// Measurement is the measurement with its instance.
func (e *Evidence) Measurement() claim.Measurement { return e.measurement }

// Launched is the measurement with what the ID block of its launch says.
func (e *Evidence) Launched() claim.Launched {
	l := claim.Launched{Measurement: e.measurement}
	if e.platform == claim.AMDSEVSNP {
		svn, _ := strconv.ParseUint(e.props["guest-svn"], 10, 32) // written by properties
		l.IDKey, l.ImageID, l.FamilyID, l.SVN = e.props["id-key-digest"], e.props["image-id"], e.props["family-id"], uint32(svn)
	}
	return l
}

// Subject is the key that asks to be admitted.
func (e *Evidence) Subject() claim.Key { return e.subject }

// Role is what it asks to be.
func (e *Evidence) Role() string { return e.role }

// Attester is the key that signed the evidence.
func (e *Evidence) Attester() claim.Key { return e.attester }

// Chip is CHIP_ID in hex; empty where nothing vouches for one chip.
func (e *Evidence) Chip() string { return e.chip }

// Properties is a copy of the platform's properties.
func (e *Evidence) Properties() map[string]string { return maps.Clone(e.props) }

// properties says what a report states in the words of the language. What a
// version or product does not have is absent.
func properties(v *appraise.Verified, r *snp.Report, product snp.Product) map[string]string {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	num := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	p := map[string]string{
		"product": string(product), "report-version": num(r.Version), "guest-svn": num(r.GuestSVN), "vmpl": num(r.VMPL),
		"abi.major": num(uint32(r.Policy.ABIMajor())), "abi.minor": num(uint32(r.Policy.ABIMinor())),
	}
	for name, bit := range map[string]snp.GuestPolicy{
		"debug": snp.PolicyDebug, "migrate": snp.PolicyMigrateMA, "smt": snp.PolicySMT, "single-socket": snp.PolicySingleSocket,
		"cxl": snp.PolicyCXLAllow, "memory-aes-256-xts": snp.PolicyMemAES256XTS, "rapl-disabled": snp.PolicyRAPLDis,
		"ciphertext-hiding": snp.PolicyCiphertextHidingDRAM, "page-swap-disabled": snp.PolicyPageSwapDisable,
	} {
		p[name] = yes(r.Policy&bit != 0)
	}
	known := snp.KnownPlatformInfo(r.Version)
	for name, bit := range map[string]snp.PlatformInfo{
		"platform-smt": snp.PlatformSMT, "platform-tsme": snp.PlatformTSME, "platform-ecc": snp.PlatformECC, "platform-rapl-disabled": snp.PlatformRAPLDis,
		"platform-ciphertext-hiding": snp.PlatformCiphertextHidingDRAM, "alias-check": snp.PlatformAliasCheckComplete, "platform-tio": snp.PlatformTIO,
	} {
		if known&bit != 0 {
			p[name] = yes(r.PlatformInfo&bit != 0)
		}
	}
	sets := map[string]snp.TCB{}
	for name, raw := range map[string]uint64{"reported-tcb": r.ReportedTCB, "committed-tcb": r.CommittedTCB, "launch-tcb": r.LaunchTCB} {
		sets[name] = snp.DecodeTCB(product, raw)
	}
	rep, com, lau := sets["reported-tcb"], sets["committed-tcb"], sets["launch-tcb"]
	sets["tcb"] = snp.TCB{
		BootLoader: min(rep.BootLoader, com.BootLoader, lau.BootLoader), TEE: min(rep.TEE, com.TEE, lau.TEE), SNP: min(rep.SNP, com.SNP, lau.SNP),
		Microcode: min(rep.Microcode, com.Microcode, lau.Microcode), FMC: min(rep.FMC, com.FMC, lau.FMC), HasFMC: rep.HasFMC,
	}
	for name, t := range sets {
		p[name+".bootloader"], p[name+".tee"], p[name+".snp"], p[name+".microcode"] = num(uint32(t.BootLoader)), num(uint32(t.TEE)), num(uint32(t.SNP)), num(uint32(t.Microcode))
		if t.HasFMC {
			p[name+".fmc"] = num(uint32(t.FMC))
		}
	}
	for name, b := range map[string][]byte{"family-id": r.FamilyID[:], "image-id": r.ImageID[:], "id-key-digest": r.IDKeyDigest[:]} {
		setHex(p, name, b)
	}
	if r.KeyInfo.AuthorKeyEn() {
		setHex(p, "author-key-digest", r.AuthorKeyDigest[:])
	}
	if v.SigningKey() == snp.SignedByVLEK {
		p["signing-key"], p["csp"] = "vlek", v.CSPID()
	} else {
		p["signing-key"] = "vcek"
		setHex(p, "chip", r.ChipID[:product.ChipIDSize()])
	}
	return p
}

// setHex sets a property that is absent where the bytes are zero.
func setHex(p map[string]string, name string, b []byte) {
	for _, x := range b {
		if x != 0 {
			p[name] = hex.EncodeToString(b)
			return
		}
	}
}
