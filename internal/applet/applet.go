// Package applet is the frame that every applet shares: its environment, its
// flags, and errors that carry an exit code, a stable code and a hint.
//
// Exit codes: 0 ok, 1 failure, 2 usage, 3 refused (do not retry), 4 unreachable
// or later (retry).
package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"attestbox/internal/code"
)

// Exit codes of every applet.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
	ExitRefused = 3
	ExitLater   = 4
)

// Env is what an applet may touch of its process.
type Env struct {
	Name           string // as it was called
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// Applet is one tool of the binary.
type Applet struct {
	Name    string // the name it is called by
	Summary string // one line, for the list
	Run     func(ctx context.Context, env *Env, args []string) error
}

// ErrHelp is returned by FlagSet.Parse after -h printed the help; exit 0.
var ErrHelp = flag.ErrHelp

type exitError struct {
	exit int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// Usage is a wrong command line: exit 2.
func Usage(format string, a ...any) error {
	return &exitError{ExitUsage, code.Wrap(code.Usage, fmt.Errorf(format, a...))}
}

// Fail is a failure with a code: exit 1.
func Fail(c code.Code, err error) error { return withExit(ExitFailure, c, err) }

// Refused is a decision that a retry does not change: exit 3.
func Refused(c code.Code, err error) error { return withExit(ExitRefused, c, err) }

// Later is a failure that a retry may mend: exit 4.
func Later(c code.Code, err error) error { return withExit(ExitLater, c, err) }

func withExit(exit int, c code.Code, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exit, code.Wrap(c, err)}
}

// WithHint adds what the user can do about err; nil stays nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hintError{err, hint}
}

// ExitCode is the exit code of err: the outermost one given, else 1.
func ExitCode(err error) int {
	switch {
	case err == nil, errors.Is(err, ErrHelp):
		return ExitOK
	default:
		if e, ok := errors.AsType[*exitError](err); ok {
			return e.exit
		}
		return ExitFailure
	}
}

// Print writes err, its code and its hints to w as `name: text [code]`. Text of
// others that an error quotes, of a file or a peer, cannot steer a terminal.
func Print(w io.Writer, name string, err error) {
	if err == nil || errors.Is(err, ErrHelp) {
		return
	}
	text := strings.TrimRight(err.Error(), "\n.")
	if c, ok := code.Of(err); ok && c != code.Usage && c != code.Failed {
		text += " [" + string(c) + "]"
	}
	fmt.Fprintf(w, "%s: %s\n", name, printable(text))
	for h, ok := errors.AsType[*hintError](err); ok; h, ok = errors.AsType[*hintError](h.err) {
		fmt.Fprintf(w, "%s: hint: %s\n", name, printable(h.hint))
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// OSEnv is the environment of the running process.
func OSEnv(name string) *Env {
	return &Env{Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
}
