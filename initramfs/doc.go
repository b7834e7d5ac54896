// Package initramfs is PID 1 of an attestbox image: it brings the machine up as
// far as the network, asks the verifier for this VM's secrets, and then either
// opens the root disk and starts the real system, or runs the programs of an
// image that lives in its initramfs.
//
// It follows DESIGN sections 5, 9 and 10. Everything that it trusts is in the
// measured image: the configuration (package config), the modules, itself. The
// command line, which is measured too, may say little more than how to reach
// the network. A boot that fails prints one line and powers the machine off;
// nothing ever asks a question on the console.
//
// It does not check file systems (no fsck), does not resume from hibernation,
// and does not judge what the host's DHCP server says beyond its form: the
// verifier is recognised by its pinned key, whatever the network is.
//
// Each step is one function in steps.go; what touches the kernel goes through
// System, so that tests can run the steps on a folder.
package initramfs
