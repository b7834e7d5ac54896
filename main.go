// attestbox is one static binary that acts as many tools: see package applets.
package main

import (
	"os"

	"attestbox/applets"
)

func main() { os.Exit(applets.Main(os.Args)) }
