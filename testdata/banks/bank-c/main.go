// Command bank-c is the program of bank C in docs/banks.md.
package main

import (
	"context"
	"os"

	"attestbox/testdata/banks/fraud"
)

func main() {
	fraud.Main("bank-c", "submit", func(ctx context.Context, args []string) error {
		return fraud.Submit(ctx, "bank-c", os.Stdout, os.Stderr, args)
	})
}
