package snpsim_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"attestbox/internal/platform"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
)

var config = snpsim.GuestConfig{
	Measurement: [48]byte{1, 2, 3}, HostData: [32]byte{4, 5}, SVN: 7,
	FamilyID: [16]byte{6}, ImageID: [16]byte{8},
}

func TestReportFields(t *testing.T) {
	for _, product := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		for _, version := range []uint32{3, 5} {
			p := snpsimtest.PSP(t, product, snpsim.WithReportVersion(version))
			g := p.Launch(config)
			b, err := g.Report([64]byte{9}, 1)
			if err != nil {
				t.Fatal(err)
			}
			r, err := snp.Parse(b)
			if err != nil {
				t.Fatalf("%s version %d: %v", product, version, err)
			}
			if got, err := r.Product(); err != nil || got != product {
				t.Errorf("product %q, %v", got, err)
			}
			tcb := snp.DecodeTCB(product, r.ReportedTCB)
			switch {
			case r.Version != version, r.VMPL != 1, r.GuestSVN != 7,
				r.ReportData != [64]byte{9}, r.Measurement != config.Measurement, r.HostData != config.HostData,
				r.FamilyID != config.FamilyID, r.ImageID != config.ImageID,
				r.Policy != snpsim.DefaultPolicy, r.ReportID != g.ReportID, r.ChipID != p.ChipID(),
				tcb != p.State().Reported, r.CurrentTCB != r.LaunchTCB,
				r.PlatformInfo&snp.PlatformAliasCheckComplete == 0,
				r.KeyInfo != 0, (r.LaunchMitVector != 0) != (version == 5):
				t.Errorf("%s version %d: %+v", product, version, r)
			}
			id := p.ChipID()
			if product == snp.Turin && !bytes.Equal(id[8:], make([]byte, 56)) {
				t.Errorf("Turin's CHIP_ID has more than 8 bytes: %x", id)
			}
			if !bytes.Equal(r.Marshal(), b) {
				t.Error("the report does not re-marshal")
			}
		}
	}
}

// An independent implementation checks chain, extensions and signature. It
// misreads Turin's TCB and hwID, so Turin's chain is checked below instead.
func TestGoSEVGuestVerifies(t *testing.T) {
	for _, product := range []snp.Product{snp.Milan, snp.Genoa} {
		p := snpsimtest.PSP(t, product)
		b, err := p.Launch(config).Report([64]byte{9}, 0)
		if err != nil {
			t.Fatal(err)
		}
		check := func(b []byte, root, vcek *snpsim.PSP) error {
			report, err := abi.ReportToProto(b)
			if err != nil {
				return err
			}
			ark, _ := x509.ParseCertificate(root.ARK())
			ask, _ := x509.ParseCertificate(root.ASK())
			return verify.SnpAttestation(&spb.Attestation{
				Report:           report,
				CertificateChain: &spb.CertificateChain{VcekCert: vcek.VCEK(), AskCert: vcek.ASK(), ArkCert: vcek.ARK()},
			}, &verify.Options{
				DisableCertFetching: true, Now: time.Now(),
				TrustedRoots: map[string][]*trust.AMDRootCerts{string(product): {{
					ProductLine: string(product), ProductCerts: &trust.ProductCerts{Ark: ark, Ask: ask},
				}}},
			})
		}
		if err := check(b, p, p); err != nil {
			t.Errorf("%s: %v", product, err)
		}
		other, err := p.AnotherChip()
		if err != nil {
			t.Fatal(err)
		}
		if err := check(b, p, other); err == nil {
			t.Errorf("%s: accepted with another chip's VCEK", product)
		}
		stranger := snpsimtest.Stranger(t, product)
		if sb, _ := stranger.Launch(config).Report([64]byte{9}, 0); check(sb, stranger, stranger) != nil {
			t.Errorf("%s: the stranger's own chain does not verify", product)
		}
		for _, i := range []int{0x50, 0x90, 0xc0, 0x140, 0x2a0, 0x2e8} {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if check(bad, p, p) == nil {
				t.Errorf("%s: accepted with byte %#x flipped", product, i)
			}
		}
	}
}

func TestCertificates(t *testing.T) {
	for _, product := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		p := snpsimtest.PSP(t, product)
		ark, _ := x509.ParseCertificate(p.ARK())
		ask, _ := x509.ParseCertificate(p.ASK())
		vcek, err := x509.ParseCertificate(p.VCEK())
		if err != nil {
			t.Fatal(err)
		}
		if err := ark.CheckSignatureFrom(ark); err != nil {
			t.Error(err)
		}
		if ask.CheckSignatureFrom(ark) != nil || vcek.CheckSignatureFrom(ask) != nil {
			t.Error("the chain is broken")
		}
		if ark.Subject.CommonName != "ARK-"+string(product) || ark.Subject.Organization[0] != snpsim.Organization {
			t.Errorf("the ARK calls itself %v", ark.Subject)
		}
		if ask.Subject.CommonName != "SEV-"+string(product) || vcek.Subject.CommonName != "SEV-VCEK" {
			t.Errorf("names %v, %v", ask.Subject, vcek.Subject)
		}
		id := p.ChipID()
		found := false
		for _, e := range vcek.Extensions {
			found = found || e.Id.Equal(kds.OidHwid) && bytes.Equal(e.Value, id[:product.ChipIDSize()])
			if len(e.Id) < 8 || e.Id[6] != 3704 {
				t.Errorf("extension %v is not KDS's", e.Id)
			}
		}
		if !found {
			t.Error("no hwID equal to CHIP_ID")
		}
		if product != snp.Turin {
			ext, err := kds.VcekCertificateExtensions(vcek)
			if err != nil || uint64(ext.TCBVersion) != snp.EncodeTCB(product, p.State().Reported) {
				t.Errorf("%s: extensions %+v, %v", product, ext, err)
			}
		}
	}
}

// A new reported TCB means a new VCEK; the old one no longer signs.
func TestVCEKFollowsReportedTCB(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Genoa)
	q, err := p.SameChip(func(s *snpsim.State) { s.Current.SNP++; s.Committed.SNP++; s.Reported.SNP++ })
	if err != nil {
		t.Fatal(err)
	}
	a, _ := x509.ParseCertificate(p.VCEK())
	b, _ := x509.ParseCertificate(q.VCEK())
	if bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) || p.ChipID() != q.ChipID() {
		t.Error("the VCEK did not change with the TCB, or the chip did")
	}
	if _, err := p.SameChip(func(s *snpsim.State) { s.Reported.SNP++ }); err == nil {
		t.Error("a reported TCB above the committed one was accepted")
	}
}

func TestMasks(t *testing.T) {
	p, err := snpsimtest.PSP(t, snp.Milan).SameChip(func(s *snpsim.State) { s.MaskChipID, s.MaskChipKey = true, true })
	if err != nil {
		t.Fatal(err)
	}
	b, _ := p.Launch(config).Report([64]byte{}, 0)
	r, err := snp.Parse(b)
	if err != nil || r.ChipID != [64]byte{} || r.Signature != [512]byte{} || !r.KeyInfo.MaskChipKey() {
		t.Errorf("masked report: %v, %+v", err, r)
	}
}

func TestVMPL(t *testing.T) {
	c := config
	c.VMPL = 2
	g := snpsimtest.PSP(t, snp.Milan).Launch(c)
	for vmpl, ok := range map[uint32]bool{0: false, 1: false, 2: true, 3: true, 4: false, 0xffffffff: false} {
		if _, err := g.Report([64]byte{}, vmpl); (err == nil) != ok || (!ok && !errors.Is(err, snpsim.ErrInvalidParam)) {
			t.Errorf("VMPL %d: %v", vmpl, err)
		}
	}
}

func TestCertTable(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	table := new(abi.CertTable)
	if err := table.Unmarshal(p.CertTable()); err != nil {
		t.Fatal(err)
	}
	for guid, want := range map[string][]byte{abi.ArkGUID: p.ARK(), abi.AskGUID: p.ASK(), abi.VcekGUID: p.VCEK()} {
		if got, err := table.GetByGUIDString(guid); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", guid, len(got), err)
		}
	}
	if len(table.Entries) != 3 {
		t.Errorf("%d entries", len(table.Entries))
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "chip")
	p := snpsimtest.PSP(t, snp.Turin, snpsim.WithReportVersion(5))
	if err := p.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Save(dir); !errors.Is(err, snpsim.ErrExists) {
		t.Errorf("second save: %v", err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, snpsim.FileSecret: 0o600, snpsim.FileARKKey: 0o600, snpsim.FileASKKey: 0o600, snpsim.FileARK: 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	q, err := snpsim.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.VCEK(), q.VCEK()) || !bytes.Equal(p.ARK(), q.ARK()) || p.State() != q.State() || p.ChipID() != q.ChipID() {
		t.Error("the chip changed on its way through the folder")
	}
	newer, err := q.SameChip(func(s *snpsim.State) { s.Current.SNP++; s.Committed.SNP++; s.Reported.SNP++ })
	if err != nil {
		t.Fatal(err)
	}
	if err := newer.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	if q, err = snpsim.Load(dir); err != nil || q.State() != newer.State() || !bytes.Equal(q.VCEK(), newer.VCEK()) {
		t.Errorf("after an update: %v", err)
	}
	// An edited state alone: the VCEK in the folder is the old one.
	if err := os.WriteFile(filepath.Join(dir, snpsim.FileVCEK), p.VCEK(), 0o644); err != nil {
		t.Fatal(err)
	}
	if q, err = snpsim.Load(dir); err != nil || bytes.Equal(q.VCEK(), p.VCEK()) {
		t.Errorf("after an edit: %v", err)
	}
	for name, content := range map[string]string{
		snpsim.FileChip: `{"product":"Rome"}`, snpsim.FileChain: "", snpsim.FileSecret: "short", snpsim.FileARKKey: "x",
	} {
		old, _ := os.ReadFile(filepath.Join(dir, name))
		os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
		if _, err := snpsim.Load(dir); err == nil {
			t.Errorf("loaded with a broken %s", name)
		}
		os.WriteFile(filepath.Join(dir, name), old, 0o600)
	}
	if _, err := snpsim.Load(dir); err != nil {
		t.Errorf("restored: %v", err)
	}
}

func TestPlatform(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	pl := p.Launch(config).Platform()
	defer pl.Close()
	ev, err := pl.Report(t.Context(), [64]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.Parse(ev.Report)
	if err != nil || r.ReportData != [64]byte{3} || ev.Platform != platform.AMDSEVSNP {
		t.Errorf("%v, %+v", err, ev)
	}
	if len(ev.Endorsements) != 2 || ev.Endorsements[0].Kind != "vek" || !bytes.Equal(ev.Endorsements[0].DER, p.VCEK()) {
		t.Errorf("endorsements %+v", ev.Endorsements)
	}
}

func TestCRL(t *testing.T) {
	p := snpsimtest.PSP(t, snp.Milan)
	now := time.Now()
	der, err := p.CRL(now, now.Add(time.Hour), big.NewInt(0x10001))
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	ark, _ := x509.ParseCertificate(p.ARK())
	if err := list.CheckSignatureFrom(ark); err != nil || len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("%v, %d entries", err, len(list.RevokedCertificateEntries))
	}
}
