package image

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// findDER recognises a file that is one DER private key by its shape, so that
// algorithms unknown to the standard library are found too. Bytes after the
// first element do not make it less of a key.
//
//	PKCS#8 (RFC 5958)  SEQUENCE { INTEGER 0|1, SEQUENCE { OID ... }, OCTET STRING ... }
//	encrypted PKCS#8   SEQUENCE { SEQUENCE { OID of PKCS#5 or PKCS#12 ... }, OCTET STRING }
//	SEC 1 (RFC 5915)   SEQUENCE { INTEGER 1, OCTET STRING ... }
//	PKCS#1, DSA        SEQUENCE { INTEGER 0|1, INTEGER, INTEGER, INTEGER, INTEGER ... }
//	PKCS#12 (RFC 7292) SEQUENCE { INTEGER 3, SEQUENCE { OID of PKCS#7 ... } ... }
func findDER(data []byte) string {
	in := cryptobyte.String(data)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
		return ""
	}
	if seq.PeekASN1Tag(cbasn1.SEQUENCE) {
		return findEncrypted(seq)
	}
	var version uint64
	if !seq.ReadASN1Integer(&version) || version > 3 {
		return ""
	}
	switch {
	case seq.PeekASN1Tag(cbasn1.SEQUENCE):
		oid, ok := leadingOID(&seq)
		switch {
		case !ok:
		case version == 3 && hasPrefix(oid, 1, 2, 840, 113549, 1, 7):
			return "is a PKCS#12 store, which may hold private keys"
		case version <= 1 && seq.PeekASN1Tag(cbasn1.OCTET_STRING):
			return "is a PKCS#8 private key in DER"
		}
	case version == 1 && seq.PeekASN1Tag(cbasn1.OCTET_STRING):
		return "is a SEC 1 private key in DER"
	case version <= 1:
		ints := 0
		for seq.PeekASN1Tag(cbasn1.INTEGER) && seq.SkipASN1(cbasn1.INTEGER) {
			ints++
		}
		if ints >= 4 {
			return "is a PKCS#1 or DSA private key in DER"
		}
	}
	return ""
}

func findEncrypted(seq cryptobyte.String) string {
	oid, ok := leadingOID(&seq)
	if ok && seq.PeekASN1Tag(cbasn1.OCTET_STRING) &&
		(hasPrefix(oid, 1, 2, 840, 113549, 1, 5) || hasPrefix(oid, 1, 2, 840, 113549, 1, 12)) {
		return "is an encrypted PKCS#8 private key in DER"
	}
	return ""
}

// leadingOID reads a SEQUENCE and returns the OID that it begins with.
func leadingOID(s *cryptobyte.String) (asn1.ObjectIdentifier, bool) {
	var inner cryptobyte.String
	var oid asn1.ObjectIdentifier
	ok := s.ReadASN1(&inner, cbasn1.SEQUENCE) && inner.ReadASN1ObjectIdentifier(&oid)
	return oid, ok
}

func hasPrefix(oid asn1.ObjectIdentifier, prefix ...int) bool {
	return len(oid) >= len(prefix) && oid[:len(prefix)].Equal(prefix)
}
