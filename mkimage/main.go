// Command mkimage makes measured boot images for attestbox: kernel, initramfs
// and command line, the launch digest that the hardware will report for them,
// and encrypted root disks.
package main

import "os"

func main() { os.Exit(mkimage()) }
