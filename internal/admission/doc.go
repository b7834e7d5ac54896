// Package admission makes and checks the X.509 certificates by which the
// members of a security domain know each other (DESIGN section 6; RFC 5280).
//
// A domain has three levels. The policy certificate is self-signed by the
// policy key, a CA of path length 1, constrained to URIs of the domain. The
// issuer's certificate is a CA of path length 0 under it, so that the policy
// key can stay offline. The admission certificate is the leaf: what a proof
// allowed, for minutes to hours.
//
// An admission certificate has an empty subject and these extensions:
//
//	BasicConstraints  critical, not a CA
//	KeyUsage          critical, digitalSignature
//	ExtKeyUsage       clientAuth; serverAuth as well where policy grants a role
//	SubjectAltName    critical; attestbox://<domain>/measurement/<hex>/instance/<hex>,
//	                  then one attestbox://<domain>/role/<role> for each role, sorted
//	OIDAdmission      critical, see below
//
// OIDAdmission is 1.3.6.1.4.1.2021083193.1.1. The enterprise number
// 2021083193 is far above those that IANA has assigned and is nobody's; a
// program that does not know the extension must refuse the certificate, which
// is what critical means. Its value is DER:
//
//	Admission ::= SEQUENCE {
//	    version        INTEGER (1..2),
//	    platform       UTF8String (SIZE (1..64)),
//	    instance       OCTET STRING (SIZE (32)),     -- as in the URI
//	    chip           OCTET STRING (SIZE (64)),     -- zeros where there is none
//	    reportID       OCTET STRING (SIZE (32)),     -- zeros where there is none
//	    reportedTCB    OCTET STRING (SIZE (8)),      -- big-endian
//	    policyVersion  INTEGER (1..9223372036854775807),
//	    proofDigest    OCTET STRING (SIZE (32)),
//	    idBlock        IDBlock OPTIONAL }            -- version 2
//
//	IDBlock ::= SEQUENCE {                           -- of the launch; not all zero
//	    idKeyDigest    OCTET STRING (SIZE (48)),
//	    imageID        OCTET STRING (SIZE (16)),
//	    familyID       OCTET STRING (SIZE (16)),
//	    guestSVN       INTEGER (0..4294967295) }
//
// Version 2 is written for a launch with an ID block alone, so that programs that
// know version 1 only still take the certificates of all others.
//
// OIDServing, ...1.2, not critical, carries a signed claim in the self-signed
// certificate of a server that is trusted by claim and not by pin.
//
// ECDSA signatures of issuers have the lower s, so that a certificate has one
// hash to revoke it by.
//
// Verify accepts exactly what Issue makes: anything more or less in the
// certificate refuses it. The package is pure; the time is an argument. It does
// not decide who is admitted (package proof does), does not fetch anything, and
// knows revocation only from the caller's function.
package admission
