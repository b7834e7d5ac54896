package appraise

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"attestbox/internal/snp"
)

// AMD's arc for VCEK and VLEK extensions (57230, table "VCEK Certificate
// Extensions"): .1 structVersion, .2 productName1, .3.N the security patch
// levels, .4 hwID (VCEK), .5 cspID (VLEK).
var arcVEK = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// VEKExtensions is what AMD certifies about the key that signs reports.
type VEKExtensions struct {
	StructVersion uint8  // 0 on Milan and Genoa, 1 on Turin
	ProductName   string // such as "Milan-B0" or "Turin"
	Product       snp.Product
	TCB           uint64 // as a raw TCB_VERSION of Product, reserved levels included
	HWID          []byte // VCEK: 64 bytes, Turin 8
	CSPID         string // VLEK: the cloud provider
}

// spl are the patch levels by their last arc; byteOf gives each its place in
// the TCB_VERSION of a product, and needed those that must be there.
type splLayout struct {
	byteOf map[int]int
	needed []int
}

// Levels 4 to 7 are reserved, and AMD's certificates of Milan and Genoa carry
// them; Turin's carry 5 to 7, which are its reserved bytes 4 to 6.
func layoutOf(p snp.Product) splLayout {
	if p == snp.Turin {
		return splLayout{map[int]int{9: 0, 1: 1, 2: 2, 3: 3, 5: 4, 6: 5, 7: 6, 8: 7}, []int{9, 1, 2, 3, 8}}
	}
	return splLayout{map[int]int{1: 0, 2: 1, 4: 2, 5: 3, 6: 4, 7: 5, 3: 6, 8: 7}, []int{1, 2, 3, 4, 5, 6, 7, 8}}
}

// ParseVEK reads the extensions of a VCEK or VLEK certificate. A missing or
// doubled one is an error, as is a patch level that the product does not have;
// so is a certificate with both hwID and cspID, or with neither.
func ParseVEK(cert *x509.Certificate) (*VEKExtensions, error) {
	if cert == nil {
		return nil, errors.New("no certificate")
	}
	e := &VEKExtensions{}
	spl := map[int]uint8{}
	seen := map[string]bool{}
	for _, x := range cert.Extensions {
		if len(x.Id) <= len(arcVEK) || !x.Id[:len(arcVEK)].Equal(arcVEK) {
			continue
		}
		if seen[x.Id.String()] {
			return nil, fmt.Errorf("extension %v is there twice", x.Id)
		}
		seen[x.Id.String()] = true
		tail := x.Id[len(arcVEK):]
		var err error
		switch {
		case len(tail) == 1 && tail[0] == 1:
			e.StructVersion, err = asn1Uint8(x.Value)
		case len(tail) == 1 && tail[0] == 2:
			e.ProductName, err = asn1IA5(x.Value)
		case len(tail) == 2 && tail[0] == 3:
			spl[tail[1]], err = asn1Uint8(x.Value)
		case len(tail) == 1 && tail[0] == 4:
			e.HWID, err = hwid(x.Value)
		case len(tail) == 1 && tail[0] == 5:
			e.CSPID, err = asn1IA5(x.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("extension %v: %w", x.Id, err)
		}
	}
	if !seen[arcVEK.String()+".1"] {
		return nil, errors.New("no structVersion extension")
	}
	line, _, _ := strings.Cut(e.ProductName, "-")
	var err error
	if e.Product, err = snp.ParseProduct(line); err != nil {
		return nil, fmt.Errorf("productName extension: %w", err)
	}
	// The version says which levels to expect; the product decides that here,
	// and more strictly, so that only a version nobody knows is refused.
	if e.StructVersion > 1 {
		return nil, fmt.Errorf("structVersion %d, want 0 or 1", e.StructVersion)
	}
	if (len(e.HWID) > 0) == (e.CSPID != "") {
		return nil, errors.New("want either an hwID (VCEK) or a cspID (VLEK) extension")
	}
	if len(e.HWID) > 0 && len(e.HWID) != e.Product.ChipIDSize() {
		return nil, fmt.Errorf("hwID of %d bytes, want %d for %s", len(e.HWID), e.Product.ChipIDSize(), e.Product)
	}
	return e, e.setTCB(spl)
}

func (e *VEKExtensions) setTCB(spl map[int]uint8) error {
	layout := layoutOf(e.Product)
	for _, n := range layout.needed {
		if _, ok := spl[n]; !ok {
			return fmt.Errorf("no patch level extension 3.%d, which %s has", n, e.Product)
		}
	}
	for n, v := range spl {
		at, ok := layout.byteOf[n]
		if !ok && v != 0 {
			return fmt.Errorf("patch level extension 3.%d is %d, and %s has no such level", n, v, e.Product)
		}
		if ok {
			e.TCB |= uint64(v) << (8 * at)
		}
	}
	return nil
}

func asn1Uint8(b []byte) (uint8, error) {
	var v int
	rest, err := asn1.Unmarshal(b, &v)
	switch {
	case err != nil:
		return 0, fmt.Errorf("not an INTEGER: %w", err)
	case len(rest) > 0:
		return 0, errors.New("bytes after the INTEGER")
	case v < 0 || v > 255:
		return 0, fmt.Errorf("%d is not in 0 to 255", v)
	}
	return uint8(v), nil
}

func asn1IA5(b []byte) (string, error) {
	const longest = 256
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	switch {
	case err != nil || v.Class != asn1.ClassUniversal || v.Tag != asn1.TagIA5String || v.IsCompound:
		return "", errors.New("not an IA5String")
	case len(rest) > 0:
		return "", errors.New("bytes after the IA5String")
	case len(v.Bytes) == 0 || len(v.Bytes) > longest:
		return "", fmt.Errorf("IA5String of %d bytes, want 1 to %d", len(v.Bytes), longest)
	}
	for _, c := range v.Bytes {
		if c < 0x20 || c > 0x7e {
			return "", errors.New("IA5String with bytes that do not print")
		}
	}
	return string(v.Bytes), nil
}

// hwid takes the bytes as the KDS writes them, bare, or as an OCTET STRING.
func hwid(b []byte) ([]byte, error) {
	if n := len(b); n == 8 || n == 64 {
		return b, nil
	}
	var v []byte
	if rest, err := asn1.Unmarshal(b, &v); err == nil && len(rest) == 0 && (len(v) == 8 || len(v) == 64) {
		return v, nil
	}
	return nil, fmt.Errorf("%d bytes that are no hwID, want 64, or 8 on Turin", len(b))
}
