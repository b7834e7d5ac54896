// Package fraud is what the four programs of docs/banks.md are made of: the
// analysis that three banks agreed upon, and how a bank takes part in it.
//
// The programs speak plain Unix sockets. Who is at the other end is the business
// of attestbox's tunnel: the analysis has one socket for each bank, and the
// tunnel behind it lets that bank alone through.
//
// A bank sends its cases as CSV and closes its half of the stream. The answer is
// "ok", a newline and the trend as CSV; or "error: ", a reason that speaks of
// this bank's cases alone, and a newline. Both CSV texts have one line more,
// "end," and how many lines came before it: a Unix socket does not tell a stream
// that was cut from one that ended.
package fraud

// Limits of one bank's cases.
const (
	MaxBytes = 1 << 20
	MaxCases = 20000
)

// What the banks agreed to release: a row of the trend has cases of every bank,
// and at least MinCases in all.
const MinCases = 5
