// Package snpsim is a simulated AMD secure processor: one chip with its keys,
// and guests that were launched on it.
//
// It follows AMD's "SEV Secure Nested Paging Firmware ABI Specification"
// (publication 56860): the attestation report in versions 3 and 5, TCB_VERSION
// as each product lays it out, MSG_REPORT_REQ and MSG_KEY_REQ with their status
// codes; "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification" (57230) for certificates and their extensions; and the
// extended guest request with its table of certificates of the
// "Guest-Hypervisor Communication Block" specification (56421).
//
// It is not a secure processor. Nothing is encrypted, whoever can read the
// chip's folder can sign any report, and its certificates say so: the ARK's
// organisation is "attestbox snp-sim, NOT AMD HARDWARE". No verifier trusts it
// unless that ARK is given to it as a root.
//
// An ID block is checked as SNP_LAUNCH_FINISH does (LaunchFinish); tests set what
// it would say in GuestConfig without one.
//
// What it does not do: VLEK, migration agents, TSC, and SNP_CONFIG's effects other than masks.
package snpsim
