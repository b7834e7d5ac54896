// Package cryptstore keeps typed, versioned secrets in a store that somebody
// else may read and write (DESIGN section 7).
//
// An entry has a tag, a type and a version above 0; versions of one tag and
// type only rise, also after deletions. Everything is encrypted and
// authenticated under one store key, which the header holds wrapped by a
// sealing key: see Sealer. Only the store's head decides what exists: a write
// adds values under new random names, then replaces the head by
// compare-and-swap, then removes what is no longer named. Cut off anywhere,
// the old or the new state remains, and at most values that nobody names.
//
// The keys of a store NAME are (package store, all integers little-endian):
//
//	cryptstore/NAME/head      header and index
//	cryptstore/NAME/v/HEX32   one value; HEX32 is its 16-byte ID
//	aside/N/cryptstore/NAME/  the same, of a store that was set aside
//
// Head:
//
//	offset  size  field
//	0       8     magic "ABXCRYPT"
//	8       4     format version, 1
//	12      8     epoch: 1 or more at creation, one more with every write
//	20      16    store ID, random
//	36      1+n   name: length and bytes
//	        1+n   kind of the seal: "key-file", "amd-sev-snp", "simulated-enclave"
//	        2+n   parameters of the seal, at most 1024 bytes; package seal has their form
//	        80    store key, a box under the sealing key
//	        2+n   escrow, at most 4096 bytes; empty without one
//	        rest  index, a box under the store key
//
// A box is salt (32 random bytes), ciphertext, tag (16 bytes): AES-256-GCM
// with the first 32 of 44 bytes of HKDF-SHA-256(key, salt, info) as its key and
// the last 12 as its nonce, so that no two boxes share a key. info is one of
// the domain strings below. Associated data are, each field preceded by its
// length (4 bytes): of the wrapped store key, the store ID, name, kind and
// parameters; of the index, everything in front of it; of a value, the name,
// store ID, tag, type (1 byte), version (4), epoch of writing (8) and value ID.
//
// Index: number of records (4 bytes), then records in ascending order of tag,
// type and version:
//
//	size  field
//	1+n   tag
//	1     type: 1 symmetric-key, 2 private-key, 3 x509-cert, 4 x509-chain, 5 blob
//	1     flags: bit 0 exportable, bit 1 deleted (the highest version ever of
//	      its tag and type, kept so that its number is not used again)
//	4     version
//	8     time of writing, Unix seconds
//	8     epoch of writing
//	16    value ID; zeros if deleted
//	4     length of the value; 0 if deleted
//	1+n   algorithm that it was generated for; empty if it was put
//
// What it does not do: notice that the whole state was set back to an older
// state of itself, unless the caller gives the least epoch that it accepts; or
// hide the number and the sizes of values. A store that is open notices if its
// epoch falls.
package cryptstore
