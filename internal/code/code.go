// Package code is the one table of stable codes that refusals and failures
// carry. A code never changes its meaning; docs/errors/<code>.md says what its
// reader can do, and `attestbox explain CODE` prints that.
package code

import "errors"

// Code names one cause, in lower case with hyphens.
type Code string

// Error is an error with its code.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Wrap gives err a code; nil stays nil. A code nearer to the cause wins over
// one that is wrapped around it later: see Of.
func Wrap(c Code, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: c, Err: err}
}

// Of finds the innermost code of err.
func Of(err error) (Code, bool) {
	var found Code
	ok := false
	for e, is := errors.AsType[*Error](err); is; e, is = errors.AsType[*Error](e.Err) {
		found, ok = e.Code, true
	}
	return found, ok
}

// Meaning is the short text of a code; false for an unknown one.
func Meaning(c Code) (string, bool) {
	m, ok := table[c]
	return m, ok
}

// All lists every code.
func All() []Code {
	all := make([]Code, 0, len(table))
	for c := range table {
		all = append(all, c)
	}
	return all
}
