package snpsim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"attestbox/internal/idblock"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
)

func idKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed is the ID block of a launch, and the launch.
func signed(t *testing.T, id, author *ecdsa.PrivateKey) (*idblock.Block, *idblock.Auth, *snpsim.IDBlock, snpsim.GuestConfig) {
	t.Helper()
	b := &idblock.Block{LaunchDigest: [48]byte{1}, FamilyID: [16]byte{2}, ImageID: [16]byte{3}, GuestSVN: 4, Policy: snpsim.DefaultPolicy}
	a, err := idblock.Sign(b, id, author)
	if err != nil {
		t.Fatal(err)
	}
	return b, a, &snpsim.IDBlock{Block: b.Marshal(), Auth: a.Marshal(), AuthorKeyEn: author != nil}, snpsim.GuestConfig{Measurement: b.LaunchDigest, HostData: [32]byte{5}}
}

func TestLaunchFinish(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Milan)
	id, author := idKey(t), idKey(t)
	b, a, in, c := signed(t, id, author)
	for _, enabled := range []bool{true, false} {
		in.AuthorKeyEn = enabled
		g, err := psp.LaunchFinish(c, in)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := g.Report([64]byte{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		r, err := snp.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if r.FamilyID != b.FamilyID || r.ImageID != b.ImageID || r.GuestSVN != 4 || r.IDKeyDigest != a.IDKey.Digest() || r.Measurement != b.LaunchDigest {
			t.Errorf("report %+v", r)
		}
		want := [48]byte{}
		if enabled {
			want = a.AuthorKey.Digest()
		}
		if r.KeyInfo.AuthorKeyEn() != enabled || r.AuthorKeyDigest != want {
			t.Errorf("AUTHOR_KEY_EN %v, digest %x", r.KeyInfo.AuthorKeyEn(), r.AuthorKeyDigest)
		}
	}
	// Keys that select the image ID are those of this image.
	g, err := psp.LaunchFinish(c, in)
	if err != nil {
		t.Fatal(err)
	}
	q := snpsim.KeyRequest{GuestFieldSelect: snpsim.SelectImageID | snpsim.SelectSVN, GuestSVN: 4}
	k1, err := g.DerivedKey(q)
	if err != nil {
		t.Fatal(err)
	}
	bare := psp.Launch(c)
	if _, err := bare.DerivedKey(q); !errors.Is(err, snpsim.ErrInvalidParam) {
		t.Errorf("a guest of SVN 0 gets the key of SVN 4: %v", err)
	}
	q.GuestSVN = 0
	k2, err := g.DerivedKey(q)
	if err != nil {
		t.Fatal(err)
	}
	k3, err := bare.DerivedKey(q)
	if err != nil {
		t.Fatal(err)
	}
	if k1 == k2 || k2 == k3 {
		t.Error("derived keys do not depend on what the ID block says")
	}
}

// An ID block counts for the one launch that it was signed for.
func TestLaunchFinishRefuses(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Milan)
	id, author, other := idKey(t), idKey(t), idKey(t)
	offCurve := func(at int) func(*idblock.Auth, *snpsim.IDBlock, *snpsim.GuestConfig) {
		return func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Auth[at] ^= 1 }
	}
	for name, tc := range map[string]struct {
		change func(*idblock.Auth, *snpsim.IDBlock, *snpsim.GuestConfig)
		want   error
	}{
		"another digest was measured": {func(_ *idblock.Auth, _ *snpsim.IDBlock, c *snpsim.GuestConfig) { c.Measurement[47] ^= 1 }, snpsim.ErrBadMeasurement},
		"another digest in the block": {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Block[0] ^= 1 }, snpsim.ErrBadMeasurement},
		"another guest policy": {func(_ *idblock.Auth, _ *snpsim.IDBlock, c *snpsim.GuestConfig) {
			c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug)
		}, snpsim.ErrPolicyFailure},
		"version 2":               {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Block[0x50] = 2 }, snpsim.ErrInvalidParam},
		"a short block":           {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Block = in.Block[:95] }, snpsim.ErrInvalidParam},
		"short authentication":    {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Auth = in.Auth[:4095] }, snpsim.ErrInvalidParam},
		"image ID changed":        {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Block[0x40] ^= 1 }, snpsim.ErrBadSignature},
		"SVN raised":              {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Block[0x54]++ }, snpsim.ErrBadSignature},
		"algorithm of the ID key": {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Auth[0] = 2 }, snpsim.ErrInvalidParam},
		"algorithm of the author": {func(_ *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) { in.Auth[4] = 2 }, snpsim.ErrInvalidParam},
		"ID key is not a point":   {offCurve(0x244), snpsim.ErrBadSignature},
		"ID key on another curve": {offCurve(0x240), snpsim.ErrBadSignature},
		"author key is no point":  {offCurve(0x884), snpsim.ErrBadSignature},
		"signature of the block":  {offCurve(0x40), snpsim.ErrBadSignature},
		"signature of the ID key": {offCurve(0x680), snpsim.ErrBadSignature},
		"another key in its place": {func(a *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) {
			k, err := idblock.NewPublicKey(&other.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			a.IDKey = k
			in.Auth = a.Marshal()
		}, snpsim.ErrBadSignature},
		"author key enabled and absent": {func(a *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) {
			a.AuthorKey, a.IDKeySig = nil, idblock.Signature{}
			in.Auth = a.Marshal()
		}, snpsim.ErrBadSignature},
		"another author": {func(a *idblock.Auth, in *snpsim.IDBlock, _ *snpsim.GuestConfig) {
			k, err := idblock.NewPublicKey(&other.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			a.AuthorKey = &k
			in.Auth = a.Marshal()
		}, snpsim.ErrBadSignature},
	} {
		_, a, in, c := signed(t, id, author)
		tc.change(a, in, &c)
		if g, err := psp.LaunchFinish(c, in); !errors.Is(err, tc.want) || g != nil {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
