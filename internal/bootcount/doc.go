// Package bootcount keeps the boot counter inside an opened volume (DESIGN
// section 5), so that a volume which the host set back is noticed: the verifier
// delivers C, the last boot that it acknowledged, and B, the number of this one.
// A volume that says less than C is an older copy; otherwise B is written,
// synced, and only then may the boot be reported as opened.
//
// Everything lies in the folder /.attestbox at the root of the volume, owned by
// root and writable for nobody else:
//
//	boot      the counter; absent means 0
//	boot.new  the place where the next one is written; never read
//	instance  optional: the ID of the instance whose volume this is
//
// The counter is one line of exactly 103 bytes of ASCII:
//
//	offset size
//	     0   17 "attestbox-boot 1 ", magic and version
//	    17   20 the number in decimal, with leading zeros
//	    37    1 space
//	    38   64 SHA-256 of bytes 0 to 36, in lower-case hexadecimal
//	   102    1 line end
//
// as in
//
//	attestbox-boot 1 00000000000000000003 db7e6843a9508f1aa296b6f9590c7b1660d1fa9a4b905cdbb6cee24f21eb8393
//
// The instance file is 64 lower-case hexadecimal digits and a line end.
//
// The check value finds damage, not malice: whether the host can write the
// volume is decided by its integrity (dm-integrity or dm-verity). Without that
// the counter is advisory.
package bootcount
