// Command bank-a is the program of bank A in docs/banks.md.
package main

import (
	"context"
	"os"

	"attestbox/testdata/banks/fraud"
)

func main() {
	fraud.Main("bank-a", "submit", func(ctx context.Context, args []string) error {
		return fraud.Submit(ctx, "bank-a", os.Stdout, os.Stderr, args)
	})
}
