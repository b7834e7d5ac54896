// Package proof derives from a policy and from evidence that a key may be
// admitted to a security domain, step by step, so that a person can read why.
//
// The rules are the Certifier Framework's R1, R3 and R5 to R10, as DESIGN
// section 6 gives them. Each is a pure function that checks its own conclusion.
// Prove applies them towards one goal; Check goes over a finished proof once
// more with code of its own. What is missing, not in force or revoked ends the
// proof with a Failure that names the premise and what would satisfy it.
//
// Trust for attestation is scoped to a platform. A key of an AMD chain shows
// environments only, and those count through rules 8 to 10 with their platform
// properties; a simulated enclave's key speaks only for the programs that the
// policy names. Attestation is delegated from ARK to ASK to VEK and no further.
//
// The package is pure: no files, no network, no clock. It does not verify
// signatures of evidence (internal/appraise does), nor that REPORT_DATA binds
// the key that asks: that is the protocol's.
package proof
