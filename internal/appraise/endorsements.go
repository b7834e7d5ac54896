package appraise

import (
	"fmt"

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
