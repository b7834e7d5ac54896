// Package link carries guest messages between the simulated secure processor
// (the owner's side, a Unix socket of QEMU) and the simulator image (the
// guest's side, a virtio-serial port named "attestbox.snp-sim").
//
// What it carries are the structures of AMD's SEV Secure Nested Paging
// Firmware ABI Specification (publication 56860, "Guest Messages"), as they
// are: MSG_REPORT_REQ and _RSP, MSG_KEY_REQ and _RSP; around them go the
// certificates and the error of a GHCB "SNP Extended Guest Request"
// (publication 56421). On hardware these messages are sealed with a VMPCK,
// because the hypervisor carries them; here the hypervisor is the simulator,
// so they are not, and nothing on this link is secret from it.
//
// A serial line keeps no message boundaries and outlives the guest: a guest can
// die in the middle of a frame and the next one begins on the same line.
// Therefore every frame has a magic number, a bounded length and a checksum
// over all of it; a reader that finds anything else drops one byte and looks
// again. A client begins with MaxRequest zero bytes, which fill up whatever
// half a frame an earlier client left.
//
// A frame, all numbers little-endian:
//
//	offset size
//	0      4    magic "SNPl"
//	4      1    version of this link, 1
//	5      1    kind: 1 report, 2 extended report, 3 derived key;
//	            0x81, 0x82, 0x83 their answers; 0xff refusal of a frame
//	6      2    zero
//	8      8    tag, chosen by the client, repeated in the answer
//	16     4    length of the body
//	20     n    body
//	20+n   4    CRC-32C of bytes 0 to 20+n
//
// For example, kind 3 (with a body too short for it), tag 0x0102030405060708,
// body aa:
//
//	53 4e 50 6c 01 03 00 00  08 07 06 05 04 03 02 01
//	01 00 00 00 aa ef 6d 0a  ab
//
// Bodies of requests:
//
//	report           MSG_REPORT_REQ, 96 bytes
//	extended report  MSG_REPORT_REQ, 96 bytes; room for certificates in bytes,
//	                 4 bytes, a multiple of 4096, at most 16384
//	derived key      MSG_KEY_REQ, 32 bytes (version 1) or 40 (version 2)
//
// Body of an answer:
//
//	0      8    exit info: VMM error << 32 | firmware error; 0 is success
//	8      4    bytes of certificates needed (VMM error 1), else 0
//	12     4    m, the length of the message, 0 on error
//	16     m    MSG_REPORT_RSP (1216 bytes) or MSG_KEY_RSP (64 bytes)
//	16+m   rest certificates: the table of publication 56421, padded to pages
//
// A refusal's body is one byte: 1 unknown kind, 2 body of a wrong shape.
//
// The package checks shapes, not meaning: whether a VMPL may be asked for is
// the secure processor's matter.
package link
