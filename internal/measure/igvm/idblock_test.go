package igvm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"attestbox/internal/idblock"
	"attestbox/internal/measure/igvm"
	"attestbox/internal/measure/igvm/igvmtest"
	"attestbox/internal/snp"
)

// idBlockItem is a signed ID block as igvmmeasure puts it into a file.
func idBlockItem(t testing.TB, policy uint64, digest [48]byte) igvmtest.Item {
	t.Helper()
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	b := &idblock.Block{LaunchDigest: digest, FamilyID: [16]byte{2}, ImageID: [16]byte{3}, GuestSVN: 4, Policy: snp.GuestPolicy(policy)}
	a, err := idblock.Sign(b, keys[0], keys[1])
	if err != nil {
		t.Fatal(err)
	}
	c := make([]byte, 696)
	le.PutUint32(c, igvmtest.Mask)
	c[4] = 1
	copy(c[8:], b.Marshal()[:88])
	le.PutUint32(c[96:], 1)
	le.PutUint32(c[100:], 1)
	copy(c[104:248], a.BlockSig[:])
	copy(c[248:], a.IDKey[:4])
	copy(c[256:400], a.IDKey[4:])
	copy(c[400:544], a.IDKeySig[:])
	copy(c[544:], a.AuthorKey[:4])
	copy(c[552:696], a.AuthorKey[4:])
	return igvmtest.Item{Type: igvm.TypeIDBlock, Content: c}
}

// The block is what the loader gives to the secure processor: it verifies with the
// file's policy, and with no other.
func TestIDBlock(t *testing.T) {
	item := idBlockItem(t, 0x30000, [48]byte{1})
	parse := func() *igvm.IDBlock {
		f, err := igvm.Parse(igvmtest.File(1, igvmtest.Platform(igvm.SEVSNP, igvmtest.Mask), igvmtest.Policy(0x30000), item))
		if err != nil {
			t.Fatal(err)
		}
		return f.Headers[1].IDBlock
	}
	b := parse()
	if b.Digest() != [48]byte{1} || b.FamilyID() != [16]byte{2} || b.ImageID() != [16]byte{3} || b.GuestSVN() != 4 || b.Version() != 1 {
		t.Errorf("fields %+v", b)
	}
	block, auth, err := b.Launch(0x30000)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Verify(block); err != nil {
		t.Error(err)
	}
	if auth.AuthorKey == nil {
		t.Fatal("no author key")
	}
	if err := auth.VerifyAuthor(); err != nil {
		t.Error(err)
	}
	other, auth, err := b.Launch(0xb0000)
	if err != nil {
		t.Fatal(err)
	}
	if auth.Verify(other) == nil {
		t.Error("the signature verifies with another policy")
	}
	for at, why := range map[int]string{104: "signature", 256: "key", 252: "reserved word of the key", 8: "digest", 96: "algorithm"} {
		item.Content[at] ^= 1
		block, auth, err := parse().Launch(0x30000)
		if err == nil && auth.Verify(block) == nil {
			t.Errorf("%s changed, and it verifies", why)
		}
		item.Content[at] ^= 1
	}
	item.Content[4] = 0
	if _, auth, err = parse().Launch(0x30000); err != nil || auth.AuthorKey != nil {
		t.Errorf("author key %v, %v, and it is not enabled", auth, err)
	}
}
