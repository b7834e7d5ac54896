#!/usr/bin/env python3
"""The SEV-SNP launch digest of IGVM files, as coconut-svsm's igvmmeasure computes it
by default: the rules of its igvm_measure.rs and page_info.rs, and the structures of
the crate igvm_defs, written down again in another language as an oracle for tests.
It checks nothing. Parameter areas of more than a page follow the crate igvm's own
measurement, which measures all their pages (igvmmeasure measures the first)."""
import hashlib
import struct
import sys

sha = lambda b: hashlib.sha384(b).digest()
ZEROS = sha(bytes(4096))
NORMAL, VMSA, UNMEASURED, SECRETS, CPUID = 1, 2, 4, 5, 6


def digest(data):
    offset, size = struct.unpack_from("<II", data, 8)
    ld, mask, areas, at = bytes(48), None, {}, offset

    def page(kind, gpa, contents=bytes(48)):
        nonlocal ld
        ld = sha(ld + contents + struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, gpa))

    while at < offset + size:
        kind, length = struct.unpack_from("<II", data, at)
        body = at + 8
        at = body + (length + 7) // 8 * 8
        if kind == 0x1:
            bit, _, platform = struct.unpack_from("<IBB", data, body)
            if platform == 2:
                mask = bit
        elif kind == 0x301:
            total, index, _ = struct.unpack_from("<QII", data, body)
            areas[index] = total
        elif kind == 0x302:
            gpa, m, file_offset, flags, what, _ = struct.unpack_from("<QIIIHH", data, body)
            if not m & mask or flags & 4:
                continue
            for i in range(512 if flags & 1 else 1):
                where = gpa + i * 4096
                if what == 1:
                    page(SECRETS, where)
                elif what in (2, 3):
                    page(CPUID, where)
                elif flags & 2:
                    page(UNMEASURED, where)
                else:
                    contents = ZEROS
                    if file_offset:
                        contents = sha(data[file_offset + i * 4096:file_offset + (i + 1) * 4096])
                    page(NORMAL, where, contents)
        elif kind == 0x303:
            gpa, m, index = struct.unpack_from("<QII", data, body)
            if m & mask:
                for i in range(areas[index] // 4096):
                    page(UNMEASURED, gpa + i * 4096)
        elif kind == 0x304:
            gpa, m, file_offset = struct.unpack_from("<QII", data, body)
            if m & mask:
                page(VMSA, gpa, sha(data[file_offset:file_offset + 4096]))
    return ld.hex()


for name in sys.argv[1:]:
    with open(name, "rb") as f:
        print(digest(f.read()))
