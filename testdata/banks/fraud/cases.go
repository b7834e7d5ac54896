package fraud

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const casesHeader = "month,category,account,amount"

// Case is one case of fraud. It stays within the analysis.
type Case struct {
	Month    string // 2026-01
	Category string
	Account  string // that the money went to
	Amount   int64  // cents
}

var (
	monthForm    = regexp.MustCompile(`^20[0-9]{2}-(0[1-9]|1[0-2])$`)
	categoryForm = regexp.MustCompile(`^[a-z]([a-z-]{0,30}[a-z])?$`)
	accountForm  = regexp.MustCompile(`^[A-Z0-9]{8,34}$`)
	amountForm   = regexp.MustCompile(`^(0|[1-9][0-9]{0,9})\.[0-9]{2}$`)
)

// ParseCases reads a bank's cases. Errors name the line and not what it says.
func ParseCases(b []byte) ([]Case, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("more than %d bytes", MaxBytes)
	}
	text, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return nil, errors.New("the last line does not end")
	}
	lines := strings.Split(string(text), "\n")
	if lines[0] != casesHeader {
		return nil, fmt.Errorf("line 1 is not %q", casesHeader)
	}
	if len(lines) == 1 || len(lines) > 1+MaxCases {
		return nil, fmt.Errorf("%d cases, want 1 to %d", len(lines)-1, MaxCases)
	}
	var cases []Case
	for i, line := range lines[1:] {
		f := strings.Split(line, ",")
		if len(f) != 4 || !monthForm.MatchString(f[0]) || !categoryForm.MatchString(f[1]) || !accountForm.MatchString(f[2]) || !amountForm.MatchString(f[3]) {
			return nil, fmt.Errorf("line %d is not a month, a category, an account and an amount", i+2)
		}
		cents, err := strconv.ParseInt(strings.Replace(f[3], ".", "", 1), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: the amount is too large", i+2)
		}
		cases = append(cases, Case{f[0], f[1], f[2], cents})
	}
	return cases, nil
}
