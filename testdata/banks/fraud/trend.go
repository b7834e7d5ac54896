package fraud

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Row is one line of the trend: what happened in a month in a category, at all
// banks together.
type Row struct {
	Month, Category string
	Cases           int
	Amount          int64 // cents
	// Shared counts the accounts that took money from customers of more than
	// one bank, which no bank can see by itself.
	Shared int
}

// Trend is the analysis. cases are those of each bank, by its name. Nothing of a
// row is released that not every bank has cases in, or that has fewer than
// MinCases.
func Trend(cases map[string][]Case) []Row {
	type key struct{ month, category string }
	type sum struct {
		row      Row
		banks    map[string]bool
		accounts map[string]map[string]bool // account: banks
	}
	sums := map[key]*sum{}
	for bank, list := range cases {
		for _, c := range list {
			k := key{c.Month, c.Category}
			s := sums[k]
			if s == nil {
				s = &sum{Row{Month: c.Month, Category: c.Category}, map[string]bool{}, map[string]map[string]bool{}}
				sums[k] = s
			}
			s.row.Cases++
			s.row.Amount += c.Amount
			s.banks[bank] = true
			if s.accounts[c.Account] == nil {
				s.accounts[c.Account] = map[string]bool{}
			}
			s.accounts[c.Account][bank] = true
		}
	}
	var out []Row
	for s := range maps.Values(sums) {
		if len(s.banks) < len(cases) || s.row.Cases < MinCases {
			continue
		}
		for _, banks := range s.accounts {
			if len(banks) > 1 {
				s.row.Shared++
			}
		}
		out = append(out, s.row)
	}
	slices.SortFunc(out, func(a, b Row) int {
		return strings.Compare(a.Month+a.Category, b.Month+b.Category)
	})
	return out
}

// Format prints the trend as CSV.
func Format(rows []Row) []byte {
	var b strings.Builder
	b.WriteString("month,category,cases,amount,shared-accounts\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "%s,%s,%d,%d.%02d,%d\n", r.Month, r.Category, r.Cases, r.Amount/100, r.Amount%100, r.Shared)
	}
	return []byte(b.String())
}
