package snp

import (
	"errors"
	"fmt"
)

// Product is a family of chips as AMD's key service (KDS) names them. Bergamo
// and Siena are served as Genoa.
type Product string

// The products that have SEV-SNP.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Turin Product = "Turin"
)

// ErrProduct is wrapped when the product is unknown or cannot be told.
var ErrProduct = errors.New("unknown product")

// ParseProduct reads a product's name; exact case.
func ParseProduct(name string) (Product, error) {
	switch p := Product(name); p {
	case Milan, Genoa, Turin:
		return p, nil
	case "Bergamo", "Siena":
		return Genoa, nil
	}
	return "", fmt.Errorf("%w %q, want Milan, Genoa or Turin", ErrProduct, name)
}

// ProductOf maps CPUID family and model, extended parts included, to a product.
func ProductOf(family, model uint8) (Product, error) {
	switch {
	case family == 0x19 && model <= 0x0F:
		return Milan, nil
	case family == 0x19 && (model>>4 == 0x1 || model>>4 == 0xA): // Genoa; Bergamo and Siena
		return Genoa, nil
	case family == 0x1A && model <= 0x1F:
		return Turin, nil
	}
	return "", fmt.Errorf("%w: CPUID family 0x%02x, model 0x%02x", ErrProduct, family, model)
}

// CPUID is a family, model and stepping of the product, for whoever makes
// reports.
func (p Product) CPUID() (family, model, stepping uint8) {
	switch p {
	case Milan:
		return 0x19, 0x01, 0x01
	case Genoa:
		return 0x19, 0x11, 0x01
	case Turin:
		return 0x1A, 0x02, 0x01
	}
	return 0, 0, 0
}

// ChipIDSize is how many bytes of CHIP_ID, and of the hwID in a VCEK, identify
// a chip; the rest of CHIP_ID is zero.
func (p Product) ChipIDSize() int {
	if p == Turin {
		return 8
	}
	return 64
}

// Product tells the product from the report itself; version 2 does not say.
func (r *Report) Product() (Product, error) {
	if r.Version < 3 {
		return "", fmt.Errorf("%w: a version %d report does not name its product", ErrProduct, r.Version)
	}
	return ProductOf(r.CPUIDFamily, r.CPUIDModel)
}
