package attestd

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Kinds of program, by what keeps the executable's content from changing.
const (
	// KindVerity is a file with fs-verity: the digest is the kernel's own.
	KindVerity = "fs-verity"
	// KindDevice is a file on a dm-verity device: the digest is SHA-256 of its
	// content.
	KindDevice = "dm-verity"
	// KindImage is a file of the measured initramfs, made read-only: the digest
	// is SHA-256 of its content.
	KindImage = "image"
)

// Unmeasured is the identity of every program that has none of its own.
const Unmeasured = "unmeasured"

// Program identifies an executable. The zero value is the unmeasured one.
type Program struct {
	Kind   string // KindVerity, KindDevice, KindImage; "" if unmeasured
	Alg    string // "sha256" or "sha512" (fs-verity only)
	Digest []byte // 32 or 64 bytes
}

// Measured says whether the program has an identity of its own.
func (p Program) Measured() bool { return p.Kind != "" }

// String is the identity, KIND:ALG:HEX or "unmeasured": this text, as bytes, is
// what reports, signatures and keys are bound to.
func (p Program) String() string {
	if !p.Measured() {
		return Unmeasured
	}
	return p.Kind + ":" + p.Alg + ":" + hex.EncodeToString(p.Digest)
}

// ParseProgram is the inverse of String.
func ParseProgram(s string) (Program, error) {
	if s == Unmeasured {
		return Program{}, nil
	}
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return Program{}, fmt.Errorf("program %.200q is not KIND:ALG:HEX", s)
	}
	digest, err := hex.DecodeString(f[2])
	p := Program{Kind: f[0], Alg: f[1], Digest: digest}
	size := map[string]int{"sha256": 32, "sha512": 64}[p.Alg]
	switch {
	case p.Kind != KindVerity && p.Kind != KindDevice && p.Kind != KindImage,
		p.Kind != KindVerity && p.Alg != "sha256",
		err != nil || size == 0 || len(digest) != size || p.String() != s:
		return Program{}, fmt.Errorf("program %.200q is malformed", s)
	}
	return p, nil
}
