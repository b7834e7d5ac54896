// Package vhostvsock gives a QEMU guest a virtio-vsock device without vhost in
// the host's kernel: it is the backend of QEMU's vhost-user-vsock-pci.
//
// It follows QEMU's "Vhost-user Protocol" (docs/interop/vhost-user), and the
// "Virtual I/O Device (VIRTIO) Version 1.2" specification of OASIS, sections
// 2.7 (split virtqueues) and 5.10 (socket device). A connection of the guest to
// CID 2 goes to Options.Dial, byte for byte; DialGuest connects the other way.
//
// A socket packet's header, 44 bytes, little-endian (VIRTIO 5.10.6):
//
//	offset size field
//	0      8    src_cid
//	8      8    dst_cid
//	16     4    src_port
//	20     4    dst_port
//	24     4    len        bytes of payload behind the header
//	28     2    type       1 stream
//	30     2    op         1 REQUEST 2 RESPONSE 3 RST 4 SHUTDOWN 5 RW
//	                       6 CREDIT_UPDATE 7 CREDIT_REQUEST
//	32     4    flags      for SHUTDOWN: 1 will not receive, 2 will not send
//	36     4    buf_alloc  bytes that the sender of this packet can buffer
//	40     4    fwd_cnt    bytes that it has taken from its buffer, modulo 2^32
//
// The guest is not trusted. Every index, address, length and flag that it
// writes is read once into our own memory and checked there; a malformed ring
// ends the device (ErrGuest), a malformed packet its connection. What is
// buffered for a connection is bounded by the credit given, the number of
// connections by Options.MaxConns, and answers that the guest does not collect
// stop the reading of further packets.
//
// Not done: indirect descriptors, event indexes, packed rings, SEQPACKET,
// migration, and connections between guests. The event queue is QEMU's own.
package vhostvsock
