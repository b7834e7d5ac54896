package snp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify/testdata"

	"attestbox/internal/snp"
	"attestbox/internal/testenv"
)

func sample(version uint32) *snp.Report {
	r := &snp.Report{Version: version, GuestSVN: 7, Policy: snp.PolicyReserved1 | snp.PolicySMT, SignatureAlgo: 1,
		CurrentTCB: 0x7308000000000003, ReportedTCB: 0x7308000000000003, PlatformInfo: 1}
	for i := range r.ReportData {
		r.ReportData[i] = byte(i)
	}
	r.Signature[0] = 9
	if version >= 3 {
		r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = snp.Genoa.CPUID()
	}
	if version >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = 3, 7
	}
	return r
}

func realMilan(t testing.TB) []byte {
	text, err := os.ReadFile(testenv.Shared(t, "vectors/snp/report_milan.hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMarshalIsTheInverseOfParse(t *testing.T) {
	cases := map[string][]byte{"go-sev-guest Milan": testdata.AttestationBytes[:snp.ReportSize], "virtee Milan": realMilan(t)}
	for v := uint32(2); v <= 5; v++ {
		cases["sample version "+string(rune('0'+v))] = sample(v).Marshal()
	}
	for name, b := range cases {
		r, err := snp.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Errorf("%s: Marshal differs from what was parsed", name)
		}
	}
}

// The offsets agree with an independent reader of the same table.
func TestAgreesWithGoSEVGuest(t *testing.T) {
	b := make([]byte, snp.ReportSize)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	copy(b, []byte{5, 0, 0, 0})
	copy(b[8:], []byte{0, 0, 2, 0, 0, 0, 0, 0})
	copy(b[0x34:], []byte{1, 0, 0, 0})
	copy(b[0x48:], []byte{5, 0, 0, 0, 0, 0, 0, 0})
	b[0x188], b[0x189], b[0x18a] = 0x19, 0x11, 1
	clear(b[0x18b:0x1a0])
	b[0x1eb], b[0x1ef] = 0, 0
	clear(b[0x208:0x2a0])
	clear(b[0x2a0+144:])
	want, err := abi.ReportToProto(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := snp.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		same bool
	}{
		{"policy", uint64(got.Policy) == want.Policy},
		{"svn", got.GuestSVN == want.GuestSvn},
		{"family", bytes.Equal(got.FamilyID[:], want.FamilyId)},
		{"image", bytes.Equal(got.ImageID[:], want.ImageId)},
		{"vmpl", got.VMPL == want.Vmpl},
		{"current tcb", got.CurrentTCB == want.CurrentTcb},
		{"platform info", uint64(got.PlatformInfo) == want.PlatformInfo},
		{"report data", bytes.Equal(got.ReportData[:], want.ReportData)},
		{"measurement", bytes.Equal(got.Measurement[:], want.Measurement)},
		{"host data", bytes.Equal(got.HostData[:], want.HostData)},
		{"id key", bytes.Equal(got.IDKeyDigest[:], want.IdKeyDigest)},
		{"author key", bytes.Equal(got.AuthorKeyDigest[:], want.AuthorKeyDigest)},
		{"report id", bytes.Equal(got.ReportID[:], want.ReportId)},
		{"report id ma", bytes.Equal(got.ReportIDMA[:], want.ReportIdMa)},
		{"reported tcb", got.ReportedTCB == want.ReportedTcb},
		{"chip", bytes.Equal(got.ChipID[:], want.ChipId)},
		{"committed tcb", got.CommittedTCB == want.CommittedTcb},
		{"current build", uint32(got.CurrentVersion.Build) == want.CurrentBuild},
		{"current major", uint32(got.CurrentVersion.Major) == want.CurrentMajor},
		{"committed minor", uint32(got.CommittedVersion.Minor) == want.CommittedMinor},
		{"launch tcb", got.LaunchTCB == want.LaunchTcb},
		{"launch mitigations", got.LaunchMitVector == want.LaunchMitVector},
		{"current mitigations", got.CurrentMitVector == want.CurrentMitVector},
		{"signature", bytes.Equal(got.Signature[:], want.Signature)},
	} {
		if !c.same {
			t.Errorf("%s differs", c.name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for n := 0; n < 2400; n++ {
		if n == snp.ReportSize {
			continue
		}
		b := make([]byte, n)
		if n > 0 {
			b[0] = 3
		}
		if _, err := snp.Parse(b); !errors.Is(err, snp.ErrMalformed) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for _, tc := range []struct {
		name    string
		version uint32
		off     int
	}{
		{"reserved word", 5, 0x4c}, {"after CPUID", 5, 0x18b}, {"before CHIP_ID", 5, 0x19f}, {"after CURRENT", 5, 0x1eb},
		{"after COMMITTED", 5, 0x1ef}, {"tail, first", 5, 0x208}, {"tail, last", 5, 0x29f},
		{"CPUID in version 2", 2, 0x188}, {"mitigations in version 4", 4, 0x1f8}, {"mitigations in version 2", 2, 0x207},
	} {
		b := sample(tc.version).Marshal()
		b[tc.off] = 1
		if _, err := snp.Parse(b); !errors.Is(err, snp.ErrMalformed) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for _, v := range []byte{0, 1, 6, 255} {
		b := sample(3).Marshal()
		b[0] = v
		if _, err := snp.Parse(b); !errors.Is(err, snp.ErrMalformed) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// The example of doc.go, and Turin's layout.
func TestTCB(t *testing.T) {
	for _, tc := range []struct {
		product snp.Product
		raw     uint64 // little-endian: the first byte is the lowest
		want    snp.TCB
	}{
		{snp.Milan, 0x7308000000000003, snp.TCB{BootLoader: 3, SNP: 8, Microcode: 115}},
		{snp.Genoa, 0x4817000000000209, snp.TCB{BootLoader: 9, TEE: 2, SNP: 23, Microcode: 72}},
		{snp.Turin, 0x4900000004030201, snp.TCB{FMC: 1, BootLoader: 2, TEE: 3, SNP: 4, Microcode: 73, HasFMC: true}},
	} {
		if got := snp.DecodeTCB(tc.product, tc.raw); got != tc.want {
			t.Errorf("%s 0x%x: %v, want %v", tc.product, tc.raw, got, tc.want)
		}
		if got := snp.EncodeTCB(tc.product, tc.want); got != tc.raw {
			t.Errorf("%s: encoded 0x%x, want 0x%x", tc.product, got, tc.raw)
		}
	}
	if snp.CleanTCB(snp.Milan, 0x100) != true || snp.CleanTCB(snp.Milan, 0x10000) || snp.CleanTCB(snp.Turin, 1<<32) {
		t.Error("reserved TCB bytes")
	}
	a := snp.TCB{BootLoader: 3, SNP: 8, Microcode: 115}
	for _, tc := range []struct {
		floor snp.TCB
		want  bool
	}{
		{a, true}, {snp.TCB{}, true}, {snp.TCB{BootLoader: 4}, false}, {snp.TCB{TEE: 1}, false}, {snp.TCB{SNP: 9}, false},
		{snp.TCB{Microcode: 116}, false}, {snp.TCB{FMC: 1}, false},
	} {
		if got := a.AtLeast(tc.floor); got != tc.want {
			t.Errorf("%v at least %v: %v", a, tc.floor, got)
		}
	}
}

func TestProducts(t *testing.T) {
	for _, tc := range []struct {
		family, model uint8
		want          snp.Product
	}{
		{0x19, 0x01, snp.Milan}, {0x19, 0x11, snp.Genoa}, {0x19, 0xa0, snp.Genoa}, {0x1a, 0x02, snp.Turin}, {0x1a, 0x11, snp.Turin},
		{0x17, 0x31, ""}, {0x19, 0x21, ""}, {0x1a, 0x50, ""}, {0, 0, ""},
	} {
		got, err := snp.ProductOf(tc.family, tc.model)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%02x/%02x: %q, %v", tc.family, tc.model, got, err)
		}
	}
	if _, err := sample(2).Product(); !errors.Is(err, snp.ErrProduct) {
		t.Errorf("version 2 names a product: %v", err)
	}
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		f, m, _ := p.CPUID()
		if got, err := snp.ProductOf(f, m); got != p || err != nil {
			t.Errorf("%s: CPUID gives %s, %v", p, got, err)
		}
	}
	if p, err := snp.ParseProduct("Bergamo"); p != snp.Genoa || err != nil {
		t.Errorf("Bergamo: %s, %v", p, err)
	}
	if _, err := snp.ParseProduct("milan"); err == nil {
		t.Error("product names are read in any case")
	}
}

func TestSignatureField(t *testing.T) {
	b := sample(3).Marshal()
	R, S := new(big.Int).Lsh(big.NewInt(5), 380), big.NewInt(0x1234)
	if err := snp.PutSignature(b, R, S); err != nil {
		t.Fatal(err)
	}
	if b[0x2a0+72] != 0x34 || b[0x2a0+73] != 0x12 {
		t.Errorf("S is not little-endian: % x", b[0x2a0+72:0x2a0+76])
	}
	r, err := snp.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if r2, s2, err := r.SignatureRS(); err != nil || r2.Cmp(R) != 0 || s2.Cmp(S) != 0 {
		t.Errorf("read back %v %v, %v", r2, s2, err)
	}
	r.Signature[511] = 1
	if _, _, err := r.SignatureRS(); err == nil {
		t.Error("bytes after the signature are ignored")
	}
	if err := snp.PutSignature(b, new(big.Int).Lsh(R, 10), S); err == nil {
		t.Error("an R of more than 384 bits is written")
	}
	if err := snp.PutSignature(b[:100], R, S); err == nil {
		t.Error("a short report is written to")
	}
}

func TestNames(t *testing.T) {
	k := snp.MakeKeyInfo(snp.SignedByVLEK, true, true)
	if k != 7 || !k.AuthorKeyEn() || !k.MaskChipKey() || k.SigningKey() != snp.SignedByVLEK || k.Reserved() != 0 || snp.KeyInfo(0x20).Reserved() == 0 {
		t.Errorf("KEY_INFO: 0x%x", k)
	}
	if got := (snp.PolicyReserved1 | snp.PolicyDebug | 0x1f).String(); got != "0xa001f (DEBUG)" {
		t.Error(got)
	}
	if got := snp.PlatformInfo(0x21).String(); got != "0x21 (SMT_EN ALIAS_CHECK_COMPLETE)" {
		t.Error(got)
	}
	if snp.KnownPlatformInfo(2) != 0x1f || snp.KnownPlatformInfo(4) != 0x3f || snp.KnownPlatformInfo(5) != 0xbf {
		t.Error("known PLATFORM_INFO bits")
	}
}

func FuzzParse(f *testing.F) {
	for v := uint32(2); v <= 5; v++ {
		f.Add(sample(v).Marshal())
	}
	f.Add(testdata.AttestationBytes[:snp.ReportSize])
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := snp.Parse(b)
		if err != nil {
			if !errors.Is(err, snp.ErrMalformed) {
				t.Fatalf("error without ErrMalformed: %v", err)
			}
			return
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Fatal("accepted bytes do not re-marshal")
		}
		r.Product()
		r.SignatureRS()
	})
}
