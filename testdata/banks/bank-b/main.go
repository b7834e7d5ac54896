// Command bank-b is the program of bank B in docs/banks.md.
package main

import (
	"context"
	"os"

	"attestbox/testdata/banks/fraud"
)

func main() {
	fraud.Main("bank-b", "submit", func(ctx context.Context, args []string) error {
		return fraud.Submit(ctx, "bank-b", os.Stdout, os.Stderr, args)
	})
}
