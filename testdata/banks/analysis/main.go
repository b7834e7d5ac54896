// Command analysis is the program that the three banks of docs/banks.md agreed
// upon.
package main

import (
	"context"
	"os"

	"attestbox/testdata/banks/fraud"
)

func main() {
	fraud.Main("analysis", "analyse", func(ctx context.Context, args []string) error {
		return fraud.Analyse(ctx, os.Stderr, args)
	})
}
