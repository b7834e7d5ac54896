package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// talk handles vhost-user messages until the connection ends.
func (d *device) talk(c *net.UnixConn) error {
	for {
		m, err := readMessage(c)
		if err != nil {
			return err
		}
		answer, err := d.message(m)
		m.close()
		if err != nil {
			return fmt.Errorf("vhost-user message %d: %w", m.request, err)
		}
		if answer == nil && m.flags&flagNeedReply != 0 {
			answer = u64(0)
		}
		if answer != nil {
			if err := reply(c, m, answer); err != nil {
				return err
			}
		}
	}
}

// message handles one message; its answer is nil if it has none of its own.
func (d *device) message(m *message) (answer []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.signal()
	switch m.request {
	case reqGetFeatures:
		return u64(features), nil
	case reqGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case reqGetQueueNum:
		return u64(numRings), nil
	case reqSetFeatures, reqSetProtocolFeatures:
		offered := uint64(features)
		if m.request == reqSetProtocolFeatures {
			offered = protocolFeatures
		}
		v, err := parseU64(m.payload)
		if err == nil && v&^offered != 0 {
			err = fmt.Errorf("features %#x were not offered", v&^offered)
		}
		if err == nil && m.request == reqSetFeatures && v&featureProtocol == 0 {
			// Without it there is no SET_VRING_ENABLE: rings are on.
			for i := range d.rings {
				d.rings[i].enabled = true
			}
		}
		return nil, err
	case reqSetOwner, reqResetOwner, reqSetConfig:
		return nil, nil
	case reqSetMemTable:
		return nil, d.setMemory(m)
	case reqGetConfig:
		return d.config(m.payload)
	case reqSetVringAddr:
		a, err := parseVringAddr(m.payload)
		if err != nil {
			return nil, err
		}
		if a.flags != 0 {
			return nil, fmt.Errorf("ring flags %#x", a.flags)
		}
		r := &d.rings[a.index]
		r.descAt, r.usedAt, r.availAt = a.desc, a.used, a.avail
		return nil, r.resolve(d.mem)
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return nil, d.setVringFD(m)
	case reqSetVringNum, reqSetVringBase, reqGetVringBase, reqSetVringEnable:
		return d.setVring(m)
	}
	return nil, errors.New("unknown request")
}

func (d *device) setVring(m *message) ([]byte, error) {
	i, num, err := parseVring(m.payload)
	if err != nil {
		return nil, err
	}
	r := &d.rings[i]
	switch m.request {
	case reqSetVringNum:
		if r.started {
			return nil, errors.New("the ring is running")
		}
		r.num, r.desc = num, nil
	case reqSetVringBase:
		if num > 0xFFFF {
			return nil, fmt.Errorf("ring index %d", num)
		}
		// The used index continues where the available one does: nothing is in
		// flight while a ring stands still.
		r.nextAvail, r.nextUsed = uint16(num), uint16(num)
	case reqSetVringEnable:
		r.enabled = num == 1
	case reqGetVringBase:
		r.started = false
		d.setKick(i, nil)
		d.dropAll()
		b := binary.LittleEndian.AppendUint32(nil, uint32(i))
		return binary.LittleEndian.AppendUint32(b, uint32(r.nextAvail)), nil
	}
	return nil, nil
}

func (d *device) setVringFD(m *message) error {
	v, err := parseU64(m.payload)
	if err != nil {
		return err
	}
	i := v & 0xFF
	if i >= numRings {
		return fmt.Errorf("ring %d of %d", i, numRings)
	}
	var f *os.File
	if v&vringNoFD == 0 {
		fd := m.take(0)
		if fd < 0 {
			return errors.New("a descriptor is missing")
		}
		// eventfds; they have to be pollable for Close to end a read.
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "eventfd")
	}
	switch m.request {
	case reqSetVringCall:
		if d.call[i] != nil {
			d.call[i].Close()
		}
		d.call[i] = f
		if f != nil {
			notify(f) // whatever was pushed before it came
		}
	case reqSetVringKick:
		if f == nil {
			return errors.New("rings without notifications are not supported")
		}
		d.setKick(int(i), f)
		d.rings[i].started = true
	default:
		if f != nil {
			f.Close()
		}
	}
	return nil
}

func (d *device) setMemory(m *message) error {
	table, err := parseMemTable(m.payload)
	if err != nil {
		return err
	}
	if len(table) != len(m.fds) {
		return fmt.Errorf("%d memory regions with %d descriptors", len(table), len(m.fds))
	}
	var mem memory
	for i, t := range table {
		r, err := mapRegion(t, m.fds[i]) // the mapping outlives the descriptor
		if err != nil {
			mem.unmap()
			return err
		}
		mem = append(mem, r)
	}
	// No ring may point into what is unmapped, whatever fails below.
	var lost [numRings]bool
	for i := range d.rings {
		r := &d.rings[i]
		lost[i] = r.desc != nil
		r.desc, r.avail, r.used = nil, nil, nil
	}
	d.mem.unmap()
	d.mem = mem
	for i := range d.rings {
		if !lost[i] {
			continue
		}
		if err := d.rings[i].resolve(mem); err != nil {
			return err
		}
	}
	return nil
}

// config answers GET_CONFIG: offset, size, flags, and the bytes themselves. The
// device's configuration is guest_cid, 8 bytes.
func (d *device) config(payload []byte) ([]byte, error) {
	if len(payload) < 12 {
		return nil, fmt.Errorf("payload of %d bytes", len(payload))
	}
	le := binary.LittleEndian
	offset, size := le.Uint32(payload), le.Uint32(payload[4:])
	if offset > 8 || size > 8-offset {
		return nil, fmt.Errorf("configuration bytes %d to %d of 8", offset, uint64(offset)+uint64(size))
	}
	answer := append([]byte(nil), payload[:12]...)
	return append(answer, u64(d.opt.GuestCID)[offset:offset+size]...), nil
}
