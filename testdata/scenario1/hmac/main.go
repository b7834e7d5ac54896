// Command hmac stands for the owner's program in the images of scenario 1
// (docs/scenario1.md). It shows that it holds a secret without showing the
// secret: it prints an HMAC-SHA-256 made with it.
//
//	hmac WHO KEYFILE
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"os"
)

const message = "attestbox scenario 1"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: hmac WHO KEYFILE")
		os.Exit(2)
	}
	key, err := os.ReadFile(os.Args[2])
	if err != nil || len(key) == 0 {
		fmt.Fprintf(os.Stderr, "hmac: no key: %v\n", err)
		os.Exit(1)
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(message))
	fmt.Printf("scenario1: %s: HMAC %x\n", os.Args[1], m.Sum(nil))
}
