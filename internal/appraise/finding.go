package appraise

import (
	"fmt"
	"strings"

	"attestbox/internal/code"
)

// Finding is the verdict about one field.
type Finding struct {
	// Field is the specification's name of what was looked at.
	Field string `json:"field"`
	// Found is what the evidence says.
	Found string `json:"found"`
	// Want is what would pass; empty where nothing was asked of this field.
	Want string `json:"want,omitempty"`
	// OK is false where the finding refuses.
	OK bool `json:"ok"`
	// Code is set where OK is false.
	Code code.Code `json:"code,omitempty"`
	// Note says what the reader should know beside the verdict.
	Note string `json:"note,omitempty"`
}

// Verdict is "ok", "REFUSED" or, where nothing was asked, "not checked".
func (f Finding) Verdict() string {
	switch {
	case !f.OK:
		return "REFUSED"
	case f.Want == "":
		return "not checked"
	}
	return "ok"
}

func (f Finding) String() string {
	s := fmt.Sprintf("%s: found %s, want %s", f.Field, f.Found, f.Want)
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s
}

// Refusal is the error of evidence that was looked at and refused. It holds
// all findings up to the end, passed ones too.
type Refusal struct{ Findings []Finding }

// First is the first finding that refuses.
func (r *Refusal) First() Finding {
	for _, f := range r.Findings {
		if !f.OK {
			return f
		}
	}
	return Finding{}
}

func (r *Refusal) Error() string {
	failed := 0
	for _, f := range r.Findings {
		if !f.OK {
			failed++
		}
	}
	s := r.First().String()
	if failed > 1 {
		s += fmt.Sprintf(" (and %d more)", failed-1)
	}
	return s
}

// refusal wraps the findings as an error with the code of the first failure;
// nil when none failed.
func refusal(fs []Finding) error {
	r := &Refusal{fs}
	first := r.First()
	if first.Field == "" {
		return nil
	}
	return code.Wrap(first.Code, r)
}

// checks collects findings.
type checks struct{ list []Finding }

// check records a field and returns ok.
func (c *checks) check(ok bool, cd code.Code, field, found, want string) bool {
	f := Finding{Field: field, Found: found, Want: want, OK: ok}
	if !ok {
		f.Code = cd
	}
	c.list = append(c.list, f)
	return ok
}

// state records a field of which nothing was asked.
func (c *checks) state(field, found, note string) {
	c.list = append(c.list, Finding{Field: field, Found: found, OK: true, Note: note})
}

// note adds to the last finding.
func (c *checks) note(format string, a ...any) {
	f := &c.list[len(c.list)-1]
	if f.Note != "" {
		f.Note += "; "
	}
	f.Note += fmt.Sprintf(format, a...)
}

func (c *checks) failed() bool {
	for _, f := range c.list {
		if !f.OK {
			return true
		}
	}
	return false
}

// oneOf prints a short list of what would pass.
func oneOf[T fmt.Stringer](list []T) string {
	const most = 3
	switch len(list) {
	case 0:
		return "one that policy names, and it names none"
	case 1:
		return list[0].String()
	}
	var s []string
	for i, v := range list {
		if i == most {
			s = append(s, fmt.Sprintf("... (%d in all)", len(list)))
			break
		}
		s = append(s, v.String())
	}
	return "one of " + strings.Join(s, ", ")
}
