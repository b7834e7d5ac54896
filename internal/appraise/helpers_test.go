package appraise_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
)

// amdExt is a patch level extension beside the usual ones.
func amdExt(level int, value byte) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, level}, Value: []byte{2, 1, value}}}
}

// cspExt is a cspID extension.
func cspExt(name string) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}, Value: append([]byte{0x16, byte(len(name))}, name...)}}
}
