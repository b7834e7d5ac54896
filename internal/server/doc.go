// Package server is the verifier's end of the attested launch protocol (DESIGN
// section 5; package wire has the messages): listener, limits, shutdown, the
// launch handler and the state behind it.
//
// It knows package store and none of its drivers, and an Appraiser instead of
// one platform's rules. It does not fetch anything from the network.
package server
