// Package cuse serves /dev/sev-guest in user space, through Linux's CUSE (a
// character device whose file operations travel over /dev/cuse as FUSE
// messages; include/uapi/linux/fuse.h), so that programs made for the kernel's
// sev-guest driver run unchanged: SNP_GET_REPORT, SNP_GET_DERIVED_KEY and
// SNP_GET_EXT_REPORT of include/uapi/linux/sev-guest.h, with the driver's
// limits and errors.
//
// The three ioctls take a structure of pointers, so the device is one of
// unrestricted ioctls: an answer may ask the kernel to send the call again
// with more of the caller's memory. Nothing is remembered between rounds. The
// bytes of a call of SNP_GET_REPORT, all numbers little-endian:
//
//	round  comes in                      answer
//	1      header 40, ioctl 32           retry with in {arg, 32}
//	2      + snp_guest_request_ioctl 32  retry with in {arg, 32} {req, 96},
//	                                     out {arg, 32} {resp, 4000}
//	3      + snp_report_req 96           result, 32 + 4000 bytes
//
// SNP_GET_EXT_REPORT has one more round, because the address of the
// certificates lies in the request.
//
// A result of -EIO carries data back all the same: exitinfo2, and for an
// extended report without enough room the length that is needed.
//
// The package trusts the kernel's framing and checks it anyway; what a caller
// put into its own memory is checked as the driver checks it. Whether a request
// is allowed is decided at the other end.
package cuse
