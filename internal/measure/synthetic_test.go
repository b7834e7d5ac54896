package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"testing"
)

func TestSyntheticFirmware(t *testing.T) {
	fw := SyntheticFirmware()
	if !bytes.Equal(fw, SyntheticFirmware()) {
		t.Error("two calls differ")
	}
	img, err := ParseImage(fw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*img, synthetic) {
		t.Errorf("parsed back as %+v", *img)
	}
	sum := sha256.Sum256(fw)
	if got := hex.EncodeToString(sum[:]); got != goldenSynthetic {
		t.Errorf("SHA-256 of the image %s, want %s: every digest made with it changes", got, goldenSynthetic)
	}
}

// Golden values: a change of either is a change of launch digests and says so
// in its commit.
const (
	goldenSynthetic = "214ffc4c6f70ba3cdb557973e01e5eb0b1ccfb3b405e31be08949e96411e8764"
	goldenDigest    = "b024815953d0640ab6e4db41421313c437ea35537d8a9459397a4b153bda9ea3db3d8c6653a4973bc3be6db6a6e66dcb"
)

func demo() Config {
	return Config{
		Firmware: SyntheticFirmware(), Kernel: []byte("kernel"), Initrd: []byte("initrd"), Append: "console=ttyS0",
		VCPUs: 2, VCPUType: "EPYC-Milan",
	}
}

func TestSyntheticDigest(t *testing.T) {
	r, err := SNP(demo())
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(r.Digest[:]); got != goldenDigest {
		t.Errorf("digest %s, want %s", got, goldenDigest)
	}
	if !r.Complete || r.Why != "" {
		t.Errorf("complete %v, why %q", r.Complete, r.Why)
	}
}
