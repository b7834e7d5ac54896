package appraise_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify/testdata"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/code"
	"attestbox/internal/snp"
	"attestbox/internal/testenv"
)

var now = appraisetest.Now

// rootsOf trusts the root of a minted chain.
func rootsOf(t testing.TB, c *appraisetest.Chain) *appraise.Roots {
	t.Helper()
	root, err := appraise.NewRoot(c.Product, c.ARK.Raw)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := appraise.NewRoots(root)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func endorse(c *appraisetest.Chain) appraise.Endorsements {
	return appraise.Endorsements{VEK: c.VEK.Raw, ASK: c.ASK.Raw, ARK: c.ARK.Raw}
}

// wantRefused checks that err is a Refusal with the code.
func wantRefused(t testing.TB, name string, err error, want code.Code) {
	t.Helper()
	r, ok := errors.AsType[*appraise.Refusal](err)
	if !ok {
		t.Errorf("%s: %v, want a refusal %q", name, err, want)
		return
	}
	got, _ := code.Of(err)
	if got != want {
		t.Errorf("%s: refused as %q (%v), want %q", name, got, err, want)
	}
	if f := r.First(); f.Field == "" || f.Found == "" || f.Want == "" {
		t.Errorf("%s: the refusal does not say field, found and wanted: %+v", name, f)
	}
}

func amdRoots(t testing.TB) *appraise.Roots {
	t.Helper()
	roots, err := amdroots.Load()
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func shared(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(testenv.Shared(t, "vectors/snp/"+name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Reports and certificates of real hardware.
func TestRealMilan(t *testing.T) {
	report, err := appraise.DecodeReport(shared(t, "report_milan.hex"))
	if err != nil {
		t.Fatal(err)
	}
	ask, ark, err := appraise.DecodeChain(shared(t, "cert_chain_milan"))
	if err != nil {
		t.Fatal(err)
	}
	opt := appraise.Options{Version2As: snp.Milan}
	for _, tc := range []struct {
		name   string
		report []byte
		e      appraise.Endorsements
	}{
		{"virtee", report, appraise.Endorsements{VEK: shared(t, "vcek_milan.der"), ASK: ask, ARK: ark}},
		{"virtee, intermediate of the root", report, appraise.Endorsements{VEK: shared(t, "vcek_milan.der")}},
		{"go-sev-guest", testdata.AttestationBytes[:snp.ReportSize], appraise.Endorsements{VEK: testdata.VcekBytes, ASK: ask}},
	} {
		v, err := appraise.Verify(tc.report, tc.e, amdRoots(t), now, opt)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if !v.AMD() || v.Product() != snp.Milan || v.SigningKey() != snp.SignedByVCEK || strings.Contains(v.Root().Name(), appraise.NotAMD) {
			t.Errorf("%s: AMD %v, %s, %s", tc.name, v.AMD(), v.Product(), v.Root().Name())
		}
	}
	e := appraise.Endorsements{VEK: shared(t, "vcek_milan.der"), ASK: ask, ARK: ark}
	_, err = appraise.Verify(report, e, amdRoots(t), now, appraise.Options{})
	wantRefused(t, "version 2 without being asked", err, code.ReportVersion)
	_, err = appraise.Verify(report, e, amdRoots(t), now, appraise.Options{Version2As: snp.Genoa})
	wantRefused(t, "version 2 as Genoa", err, code.VEKRoot)
	_, err = appraise.Verify(report, appraise.Endorsements{VEK: testdata.VcekBytes, ASK: ask}, amdRoots(t), now, opt)
	wantRefused(t, "VCEK of another real chip", err, code.ReportSignature)
	_, err = appraise.Verify(report, e, rootsOf(t, appraisetest.Mint(appraisetest.Config{})), now, opt)
	wantRefused(t, "genuine report under a simulator's root", err, code.VEKRoot)
}

func TestRealTurinVCEK(t *testing.T) {
	vek, err := x509.ParseCertificate(shared(t, "vcek_turin.der"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := appraise.ParseVEK(vek)
	if err != nil {
		t.Fatal(err)
	}
	if e.Product != snp.Turin || e.StructVersion != 1 || hex.EncodeToString(e.HWID) != "1e550a8ee5cf9f4d" || e.CSPID != "" {
		t.Errorf("%+v", e)
	}
	if got, want := snp.DecodeTCB(snp.Turin, e.TCB), (snp.TCB{Microcode: 9, HasFMC: true}); got != want {
		t.Errorf("TCB %v, want %v", got, want)
	}
	// The chain verifies to AMD's root; without the chip's report the signature
	// is the first thing that fails.
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Turin, ChipID: e.HWID, TCB: snp.DecodeTCB(snp.Turin, e.TCB)})
	ask, ark, err := appraise.DecodeChain(shared(t, "cert_chain_turin"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = appraise.Verify(c.Sign(c.Report(3)), appraise.Endorsements{VEK: vek.Raw, ASK: ask, ARK: ark}, amdRoots(t), now, appraise.Options{})
	r, ok := errors.AsType[*appraise.Refusal](err)
	if !ok {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if f.OK == (f.Field == "SIGNATURE") {
			t.Errorf("%s: %s", f.Verdict(), f)
		}
	}
}

func TestMintedReportsVerify(t *testing.T) {
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		for _, vlek := range []bool{false, true} {
			c := appraisetest.Mint(appraisetest.Config{Product: p, VLEK: vlek})
			for version := uint32(3); version <= 5; version++ {
				v, err := appraise.Verify(c.Sign(c.Report(version)), endorse(c), rootsOf(t, c), now, appraise.Options{})
				if err != nil {
					t.Errorf("%s, VLEK %v, version %d: %v", p, vlek, version, err)
					continue
				}
				if v.AMD() || !strings.Contains(v.Root().Name(), appraise.NotAMD) {
					t.Errorf("%s: a minted root is not named %s", p, appraise.NotAMD)
				}
				if v.Product() != p || (v.CSPID() != "") != vlek || v.ReportedTCB() != c.TCB {
					t.Errorf("%s: %s, %q, %v", p, v.Product(), v.CSPID(), v.ReportedTCB())
				}
			}
		}
	}
}

func TestFlippedBytesOfTheReport(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	roots, e := rootsOf(t, c), endorse(c)
	opt := appraise.Options{Version2As: snp.Genoa, Cache: appraise.NewChainCache(4)}
	good := c.Sign(c.Report(5))
	if _, err := appraise.Verify(good, e, roots, now, opt); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] ^= mask
			v, err := appraise.Verify(bad, e, roots, now, opt)
			if _, ok := errors.AsType[*appraise.Refusal](err); !ok || v != nil {
				t.Fatalf("byte 0x%x ^ 0x%02x: %v", i, mask, err)
			}
		}
	}
}

func TestWrongLengths(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	good := append(c.Sign(c.Report(3)), make([]byte, 5000)...)
	roots := rootsOf(t, c)
	for n := range len(good) {
		if n == snp.ReportSize {
			continue
		}
		_, err := appraise.Verify(good[:n], endorse(c), roots, now, appraise.Options{})
		if got, _ := code.Of(err); got != code.ReportMalformed {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// Every byte of every certificate that comes with the evidence counts.
func TestFlippedBytesOfTheChain(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	roots, good := rootsOf(t, c), endorse(c)
	report := c.Sign(c.Report(3))
	good.CRL = c.CRL(now.Add(-time.Hour), now.Add(time.Hour), big.NewInt(5))
	if _, err := appraise.Verify(report, good, roots, now, appraise.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		of   func(*appraise.Endorsements) *[]byte
	}{
		{"VEK", func(e *appraise.Endorsements) *[]byte { return &e.VEK }},
		{"ASK", func(e *appraise.Endorsements) *[]byte { return &e.ASK }},
		{"ARK", func(e *appraise.Endorsements) *[]byte { return &e.ARK }},
		{"CRL", func(e *appraise.Endorsements) *[]byte { return &e.CRL }},
	} {
		size := len(*part.of(&good))
		for i := range size {
			e := good
			b := bytes.Clone(*part.of(&good))
			b[i] ^= 0x01
			*part.of(&e) = b
			if _, err := appraise.Verify(report, e, roots, now, appraise.Options{}); err == nil {
				t.Fatalf("%s: byte %d of %d flipped and accepted", part.name, i, size)
			}
		}
	}
}

func ext(b ...byte) *[]byte { return &b }

func TestVerifyRefuses(t *testing.T) {
	const arc = "1.3.6.1.4.1.3704.1"
	mint := appraisetest.Mint
	base := mint(appraisetest.Config{})
	other := mint(appraisetest.Config{OtherARK: true})
	genoa := mint(appraisetest.Config{Product: snp.Genoa})
	zeroChip := mint(appraisetest.Config{ChipID: make([]byte, 64)})
	type edit = func(*snp.Report)
	type kit struct {
		c     *appraisetest.Chain
		edit  edit
		e     *appraise.Endorsements
		roots *appraise.Roots
		now   time.Time
		opt   appraise.Options
	}
	with := func(cfg appraisetest.Config) kit { return kit{c: mint(cfg)} }
	drop := func(oid string) kit {
		return with(appraisetest.Config{Extensions: map[string]*[]byte{arc + oid: nil}})
	}
	turinDrop := func(oid string) kit {
		return with(appraisetest.Config{Product: snp.Turin, Extensions: map[string]*[]byte{arc + oid: nil}})
	}
	set := func(oid string, v ...byte) kit {
		return with(appraisetest.Config{Extensions: map[string]*[]byte{arc + oid: ext(v...)}})
	}
	ends := func(f func(*appraise.Endorsements)) kit {
		e := endorse(base)
		f(&e)
		return kit{c: base, e: &e}
	}
	tests := map[string]struct {
		kit
		want code.Code
	}{
		"unknown ARK under the genuine name": {kit{c: other, roots: rootsOf(t, base)}, code.VEKRoot},
		"unknown ARK, not sent":              {kit{c: other, roots: rootsOf(t, base), e: &appraise.Endorsements{VEK: other.VEK.Raw, ASK: other.ASK.Raw}}, code.VEKRoot},
		"genuine ARK sent, other ASK":        {ends(func(e *appraise.Endorsements) { e.ASK = other.ASK.Raw; e.VEK = other.VEK.Raw }), code.VEKRoot},
		"self-made chain under AMD's roots":  {kit{c: base, roots: amdRoots(t)}, code.VEKRoot},
		"no roots":                           {kit{c: base, roots: &appraise.Roots{}}, code.VEKRoot},
		"root of another product":            {kit{c: base, roots: rootsOf(t, genoa)}, code.VEKRoot},
		"VEK in the place of the ASK":        {ends(func(e *appraise.Endorsements) { e.ASK = base.VEK.Raw }), code.VEKRoot},
		"ASK in the place of the VEK":        {ends(func(e *appraise.Endorsements) { e.VEK = base.ASK.Raw }), code.VEKChain},
		"ARK in the place of the ASK":        {ends(func(e *appraise.Endorsements) { e.ASK = base.ARK.Raw }), code.VEKChain},
		"no VEK":                             {ends(func(e *appraise.Endorsements) { e.VEK = nil }), code.VEKChain},
		"no ASK, and none known":             {ends(func(e *appraise.Endorsements) { e.ASK = nil }), code.VEKChain},
		"garbage as VEK":                     {ends(func(e *appraise.Endorsements) { e.VEK = []byte("hello") }), code.VEKChain},
		"huge VEK":                           {ends(func(e *appraise.Endorsements) { e.VEK = make([]byte, 1<<20) }), code.VEKChain},
		"ASK without the CA bit":             {with(appraisetest.Config{ASKNotCA: true}), code.VEKChain},
		"VEK with PKCS#1 v1.5":               {with(appraisetest.Config{PKCS1: true}), code.VEKChain},
		"VEK on P-256":                       {with(appraisetest.Config{VEKCurve: elliptic.P256()}), code.VEKChain},
		"VEK with the CA bit":                {with(appraisetest.Config{EditVEK: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }}), code.VEKChain},
		"VEK expired":                        {with(appraisetest.Config{VEKTo: now.Add(-time.Second)}), code.VEKValidity},
		"VEK not yet valid":                  {with(appraisetest.Config{VEKFrom: now.Add(time.Second)}), code.VEKValidity},
		"ASK expired":                        {with(appraisetest.Config{ASKTo: now.Add(-time.Second)}), code.VEKValidity},
		"ARK expired":                        {kit{c: base, now: now.AddDate(30, 0, 0)}, code.VEKValidity},
		"VEK without structVersion":          {drop(".1"), code.VEKExtension},
		"VEK without productName":            {drop(".2"), code.VEKExtension},
		"VEK without boot loader level":      {drop(".3.1"), code.VEKExtension},
		"VEK without TEE level":              {drop(".3.2"), code.VEKExtension},
		"VEK without SNP level":              {drop(".3.3"), code.VEKExtension},
		"VEK without a reserved level":       {drop(".3.4"), code.VEKExtension},
		"VEK without microcode level":        {drop(".3.8"), code.VEKExtension},
		"VEK without hwID":                   {drop(".4"), code.VEKExtension},
		"Turin VEK without FMC level":        {turinDrop(".3.9"), code.VEKExtension},
		"Turin VEK without hwID":             {turinDrop(".4"), code.VEKExtension},
		"level of two bytes":                 {set(".3.1", 2, 2, 1, 3), code.VEKExtension},
		"level below zero":                   {set(".3.1", 2, 1, 0xff), code.VEKExtension},
		"level with bytes after it":          {set(".3.1", 2, 1, 3, 0), code.VEKExtension},
		"level that is a string":             {set(".3.1", 0x16, 1, 3), code.VEKExtension},
		"product that is UTF-8":              {set(".2", append([]byte{0x0c, 8}, "Milan-B1"...)...), code.VEKExtension},
		"unknown product":                    {set(".2", append([]byte{0x16, 4}, "Rome"...)...), code.VEKExtension},
		"unknown structVersion":              {set(".1", 2, 1, 2), code.VEKExtension},
		"hwID of 8 bytes on Milan":           {set(".4", 1, 2, 3, 4, 5, 6, 7, 8), code.VEKExtension},
		"hwID of 63 bytes":                   {set(".4", make([]byte, 63)...), code.VEKExtension},
		"FMC level on Milan":                 {kit{c: mint(appraisetest.Config{MoreExtensions: amdExt(9, 1)})}, code.VEKExtension},
		"hwID and cspID":                     {kit{c: mint(appraisetest.Config{MoreExtensions: cspExt("x")})}, code.VEKExtension},
		"VCEK of another product":            {set(".2", append([]byte{0x16, 8}, "Genoa-B1"...)...), code.VEKExtension},
		"VCEK by the name of a VLEK":         {with(appraisetest.Config{VEKName: "SEV-VLEK"}), code.VEKKind},
		"VCEK under a VLEK's intermediate":   {with(appraisetest.Config{ASKName: "SEV-VLEK-Milan"}), code.VEKKind},
		"VCEK by the name VCEK":              {with(appraisetest.Config{VEKName: "VCEK"}), code.VEKKind},
		"report says VLEK, key is a VCEK":    {kit{c: base, edit: func(r *snp.Report) { r.KeyInfo = snp.MakeKeyInfo(snp.SignedByVLEK, false, false) }}, code.VEKKind},
		"report is unsigned":                 {kit{c: base, edit: func(r *snp.Report) { r.KeyInfo = snp.MakeKeyInfo(snp.Unsigned, false, false) }}, code.VEKKind},
		"reserved SIGNING_KEY":               {kit{c: base, edit: func(r *snp.Report) { r.KeyInfo = snp.MakeKeyInfo(3, false, false) }}, code.VEKKind},
		"reserved KEY_INFO bits":             {kit{c: base, edit: func(r *snp.Report) { r.KeyInfo |= 1 << 9 }}, code.ReportMalformed},
		"masked chip":                        {kit{c: base, edit: func(r *snp.Report) { r.KeyInfo = snp.MakeKeyInfo(snp.SignedByVCEK, true, false) }}, code.ReportMasked},
		"VCEK of another chip":               {kit{c: base, edit: func(r *snp.Report) { r.ChipID[63]++ }}, code.VEKChip},
		"CHIP_ID zero":                       {kit{c: base, edit: func(r *snp.Report) { r.ChipID = [64]byte{} }}, code.VEKChip},
		"CHIP_ID and hwID zero":              {kit{c: zeroChip}, code.VEKChip},
		"Turin CHIP_ID with a tail":          {kit{c: mint(appraisetest.Config{Product: snp.Turin}), edit: func(r *snp.Report) { r.ChipID[8] = 1 }}, code.VEKChip},
		"VEK of another TCB":                 {kit{c: base, edit: func(r *snp.Report) { r.ReportedTCB += 1 << 56 }}, code.VEKTCB},
		"REPORTED_TCB with reserved bytes":   {kit{c: base, edit: func(r *snp.Report) { r.ReportedTCB |= 1 << 24 }}, code.VEKTCB},
		"Turin VEK of another FMC":           {kit{c: mint(appraisetest.Config{Product: snp.Turin}), edit: func(r *snp.Report) { r.ReportedTCB ^= 1 }}, code.VEKTCB},
		"unknown CPUID":                      {kit{c: base, edit: func(r *snp.Report) { r.CPUIDFamily = 0x17 }}, code.ReportProduct},
		"another product than asked for":     {kit{c: base, opt: appraise.Options{Product: snp.Genoa}}, code.ReportProduct},
		"another signature algorithm":        {kit{c: base, edit: func(r *snp.Report) { r.SignatureAlgo = 2 }}, code.ReportMalformed},
		"CRL wanted, none there":             {kit{c: base, opt: appraise.Options{RequireCRL: true}}, code.CRLBad},
		"CRL stale":                          {ends(func(e *appraise.Endorsements) { e.CRL = base.CRL(now.Add(-48*time.Hour), now.Add(-24*time.Hour)) }), code.CRLBad},
		"CRL of the future":                  {ends(func(e *appraise.Endorsements) { e.CRL = base.CRL(now.Add(time.Hour), now.Add(24*time.Hour)) }), code.CRLBad},
		"CRL of another root":                {ends(func(e *appraise.Endorsements) { e.CRL = other.CRL(now.Add(-time.Hour), now.Add(time.Hour)) }), code.CRLBad},
		"CRL of another product":             {ends(func(e *appraise.Endorsements) { e.CRL = genoa.CRL(now.Add(-time.Hour), now.Add(time.Hour)) }), code.CRLBad},
		"garbage as CRL":                     {ends(func(e *appraise.Endorsements) { e.CRL = []byte("hello") }), code.CRLBad},
		"ASK revoked": {ends(func(e *appraise.Endorsements) {
			e.CRL = base.CRL(now.Add(-time.Hour), now.Add(time.Hour), big.NewInt(9), base.ASK.SerialNumber)
		}), code.VEKRevoked},
		"VEK revoked": {ends(func(e *appraise.Endorsements) {
			e.CRL = base.CRL(now.Add(-time.Hour), now.Add(time.Hour), base.VEK.SerialNumber)
		}), code.VEKRevoked},
	}
	for name, tc := range tests {
		r := tc.c.Report(3)
		if tc.edit != nil {
			tc.edit(r)
		}
		e := endorse(tc.c)
		if tc.e != nil {
			e = *tc.e
		}
		roots := tc.roots
		if roots == nil {
			roots = rootsOf(t, tc.c)
		}
		at := tc.now
		if at.IsZero() {
			at = now
		}
		v, err := appraise.Verify(tc.c.Sign(r), e, roots, at, tc.opt)
		if v != nil {
			t.Errorf("%s: verified", name)
		}
		wantRefused(t, name, err, tc.want)
	}
}

// A stale list within its grace counts, and a hwID may be wrapped.
func TestVerifyAccepts(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	e := endorse(c)
	e.CRL = c.CRL(now.Add(-48*time.Hour), now.Add(-24*time.Hour), big.NewInt(5))
	if _, err := appraise.Verify(c.Sign(c.Report(3)), e, rootsOf(t, c), now, appraise.Options{RequireCRL: true, CRLGrace: 25 * time.Hour}); err != nil {
		t.Error(err)
	}
	wrapped, err := asn1.Marshal(c.ChipID)
	if err != nil {
		t.Fatal(err)
	}
	c = appraisetest.Mint(appraisetest.Config{Extensions: map[string]*[]byte{"1.3.6.1.4.1.3704.1.4": &wrapped}})
	if _, err := appraise.Verify(c.Sign(c.Report(3)), endorse(c), rootsOf(t, c), now, appraise.Options{}); err != nil {
		t.Error(err)
	}
	if _, err := appraise.Verify(c.Sign(c.Report(2)), endorse(c), rootsOf(t, c), now, appraise.Options{Version2As: snp.Milan}); err != nil {
		t.Error(err)
	}
}
