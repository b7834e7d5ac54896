package appraise

import (
	"errors"
	"fmt"

	"attestbox/internal/snp"
	"attestbox/internal/wire"
)

// Endorsements are the certificates that vouch for the key that signed a
// report, in DER. VEK must be there. ASK may be left out where the root brings
// its intermediate; ARK may be left out always, since it is trusted only if it
// is one of the Roots. CRL is AMD's revocation list, honoured when present; it
// should come from the verifier's own cache, since whoever sends evidence would
// choose an old one.
type Endorsements struct{ VEK, ASK, ARK, CRL []byte }

// FromWire sorts endorsements as they come in a message. An unknown or doubled
// kind is an error.
func FromWire(list []wire.Endorsement) (Endorsements, error) {
	var e Endorsements
	for _, w := range list {
		var to *[]byte
		switch w.Kind {
		case "vek":
			to = &e.VEK
		case "ask":
			to = &e.ASK
		case "ark":
			to = &e.ARK
		case "crl":
			to = &e.CRL
		default:
			return Endorsements{}, fmt.Errorf("unknown kind of endorsement %q", w.Kind)
		}
		if *to != nil {
			return Endorsements{}, fmt.Errorf("endorsement %q is there twice", w.Kind)
		}
		if len(w.DER) == 0 {
			return Endorsements{}, fmt.Errorf("endorsement %q is empty", w.Kind)
		}
		*to = w.DER
	}
	return e, nil
}

// CheckEndorsements says whether endorsements end in a trusted root of the
// product: the VEK through its ASK, and the CRL by its signature. Dates and
// revocation are not looked at; Verify does that at every use. It is for whoever
// keeps certificates and would otherwise keep forged ones.
func CheckEndorsements(e Endorsements, roots *Roots, product snp.Product) error {
	if len(e.VEK) > 0 {
		if _, ce := buildChain(e, roots, product); ce != nil {
			return ce
		}
		return nil
	}
	if len(e.CRL) == 0 {
		return errors.New("neither a VEK nor a revocation list")
	}
	err := fmt.Errorf("no root is trusted for %s", product)
	for _, r := range roots.of(product) {
		if _, err = parseCRL(e.CRL, r); err == nil {
			return nil
		}
	}
	return fmt.Errorf("revocation list: %w", err)
}
