package wire

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
)

// What attestd hashes, derives keys from and signs. Each begins with a domain
// string of its own, length-prefixed, so that nothing made for a program can
// be taken for a launch, a certification, a TLS handshake (whose signed content
// begins with 64 spaces), a certificate or a CSR (which begin with 0x30).

// AttestdReportData is the REPORT_DATA of attestd: SHA-512 over its domain
// string, the calling program's identity and the caller's data, each
// length-prefixed. It fits no other protocol.
func AttestdReportData(program, data []byte) [64]byte {
	return sha512.Sum512(lengthPrefixed([]byte(domainAttestd), program, data))
}

// AttestdSigned is the message that attestd signs for a program: domain string,
// the program's identity, the caller's context and data, each length-prefixed.
func AttestdSigned(program, context, data []byte) []byte {
	return lengthPrefixed([]byte(domainAttestdSign), program, context, data)
}

// AttestdStatement is the message by which attestd says that a key is a
// program's: domain string, the program's identity, the key's SPKI, and
// not-before and not-after in Unix seconds, 8 bytes little-endian.
func AttestdStatement(program, spki []byte, notBefore, notAfter int64) []byte {
	return lengthPrefixed([]byte(domainAttestdKey), program, spki,
		binary.LittleEndian.AppendUint64(nil, uint64(notBefore)), binary.LittleEndian.AppendUint64(nil, uint64(notAfter)))
}

// AttestdSealInfo is the HKDF info of what is sealed for a program; purpose
// keeps keys for different ends apart. owner is whose it is: the user ID, 4
// bytes little-endian, or nothing for any user.
func AttestdSealInfo(purpose string, program, owner, context []byte) []byte {
	return lengthPrefixed([]byte(domainAttestdSeal), []byte(purpose), program, owner, context)
}

// AttestdCertified is the message by which a program's key answers a policy
// server's challenge: domain string, the program's identity and
// CertifyTranscript.ReportData, each length-prefixed.
func AttestdCertified(program []byte, reportData [64]byte) []byte {
	return lengthPrefixed([]byte(domainAttestdCertify), program, reportData[:])
}

// AttestdMeasurement is a program in the words of the policy: SHA-256 over
// domain string and the program's identity, each length-prefixed. So it depends
// on what measured the program, and is no file's digest.
func AttestdMeasurement(program []byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(domainAttestdProgram), program))
}
