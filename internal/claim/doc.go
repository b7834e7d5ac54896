// Package claim is the language of a security domain: statements, claims,
// policy files and signed claims, as text.
//
// The language is the Certifier Framework's, with the platform properties and
// scopes of DESIGN section 6; docs/policy.md has the grammar. Printing and
// parsing are inverse: whatever Parse accepts prints in one canonical form,
// which parses to the same thing, and a signed file counts only in that form.
//
// A policy is signed as a file: the signature covers the exact bytes of its
// text, under a domain string of its own (wire.PolicyMessage). Ed25519 (RFC
// 8032), ECDSA P-384 with SHA-384, and RSA-PSS with SHA-384 (RFC 8017 section
// 8.1, salt of 48 bytes) sign.
//
// The package judges form and signatures. It does not judge whether a claim is
// in force at some time, nor what follows from claims: internal/proof does. It
// is pure: no files, no network, no clock.
package claim
