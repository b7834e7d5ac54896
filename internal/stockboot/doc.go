// Package stockboot is the attested launch inside a distribution's own
// initramfs, where another program opens the disk: cryptsetup by a keyscript, or
// systemd-cryptsetup by a socket. Its configuration is init's own, init.json in
// mode switch-root.
//
// Fetch comes before the disk is opened: it judges the kernel command line,
// brings the network up, asks the verifier, reads the disk's header once,
// compares it with the registered record, checks every rule, and leaves the
// validated header as a file on tmpfs. Whoever opens the disk must be given that
// file as its detached header, so that the host's copy is never read again.
//
// Finish comes when the root is mounted and before anything in it is read: it
// compares the kernel's mapping with the record, the mounted file system with
// the mapping, the boot counter in the volume with the release (package bootcount),
// reports the outcome and waits for the acknowledgement. Without it
// the real system must not start; the caller powers off.
//
// Between the two lies a folder of root's on tmpfs:
//
//	header     the validated header and keyslot area
//	state      what Finish needs: JSON, no secrets
//	outcome    both outcomes, authenticated, as two protocol frames
//
// It does not open the disk, and cannot: that is the distribution's part.
package stockboot
