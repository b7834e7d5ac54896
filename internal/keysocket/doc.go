// Package keysocket hands one disk key to systemd-cryptsetup, once, over the
// socket that crypttab's third field names. It follows crypttab(5) of systemd,
// section "AF_UNIX KEY FILES": the client binds its end to an abstract address
// before it connects, the server learns from getpeername what is asked for, and
// writes the key and closes.
//
//	offset  size   sun_path of the client
//	     0     1   0
//	     1   1-16  a random 64-bit number, lower-case hexadecimal, no leading zero
//	     .    12   "/cryptsetup/"
//	     .     -   the volume's name, crypttab's first field
//
// For example 00 "d6067cbdb49f8fd5/cryptsetup/root".
//
// A peer that is not root's, or asks for another volume or for something else,
// is closed without a byte, and the wait goes on. The first peer that may have
// the key ends it, whether it takes the key or not.
//
// It does not check which program asks: in an initramfs every process of root's
// is part of what was measured.
package keysocket
