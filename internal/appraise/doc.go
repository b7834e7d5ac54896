// Package appraise is the verifier's side of AMD SEV-SNP attestation: evidence
// in, a decision with reasons out.
//
// Verify is cryptography: AMD 56860 section 7.3 for the report and AMD 57230
// ("Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification") chapter 3 for the certificates. Its result, a Verified, can
// be made in no other way. Appraise compares the fields of a Verified with a
// Policy and with what the protocol expects. Both record every field as a
// Finding: what was found, what was wanted, and the verdict.
//
// Trust starts at the Roots that the caller passes, never at a certificate
// that came with the evidence. A root that is not one of AMD's three is named
// NOT AMD HARDWARE in every decision.
//
// Own code stands where go-sev-guest v0.15 is wrong or silent: Turin's TCB with
// FMC, structVersion 1 and its 8-byte hwID; PLATFORM_INFO bits above 5;
// revocation of the VEK; unset fields, which here refuse instead of passing.
//
// The package is pure: no network, no clock, no global state. It does not
// fetch certificates (internal/kds does), does not decide who may have which
// secret, and cannot know whether a chip's secrets have been extracted: that is
// what the chip allow-list is for.
package appraise
