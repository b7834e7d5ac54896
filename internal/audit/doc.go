// Package audit keeps events in a log in which every line holds the hash of the
// line before it, so that a change, a deletion, an insertion or another order
// is found.
//
// A log is a folder of files named audit-<number of the first line, 20
// digits>.jsonl. A line is one JSON object in the form that Append writes, and
// a newline:
//
//	{"seq":7,"prev":"<64 hex>","time":"2026-03-01T12:00:00Z","kind":"certify","data":{...}}
//
// seq counts from 1 without a gap over all files. prev is the hash of line
// seq-1, of 32 zero bytes in line 1. The hash of a line is SHA-256 over
// "attestbox/audit/1", a zero byte, and the line without its newline.
//
// The head, number and hash of the last line that is on the disk for certain,
// is kept elsewhere: the server seals it in its state. Whoever can write the
// folder can make a whole new chain; only the head shows that. So Verify
// without a head says that the lines fit together, and with one that they are
// the ones that were written, up to the head. What was written after the last
// Sync (a second, as the server uses it) can be cut off unnoticed.
//
// Closed files may be moved away; they verify together with the rest when they
// are put back, and the rest alone verifies with a note that its beginning is
// not there.
package audit
