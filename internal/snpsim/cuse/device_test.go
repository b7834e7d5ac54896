package cuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"attestbox/internal/snpsim/link"
)

var le = binary.LittleEndian

// memory is a caller's memory: pieces at addresses.
type memory map[uint64][]byte

func (m memory) at(addr, n uint64) []byte {
	for base, b := range m {
		if addr >= base && addr+n <= base+uint64(len(b)) {
			return b[addr-base : addr-base+n]
		}
	}
	return nil
}

// fuseMessage is what the kernel writes for an opcode.
func fuseMessage(opcode uint32, unique uint64, body []byte) []byte {
	b := make([]byte, inHeaderSize)
	le.PutUint32(b, uint32(inHeaderSize+len(body)))
	le.PutUint32(b[4:], opcode)
	le.PutUint64(b[8:], unique)
	return append(b, body...)
}

func ioctlMessage(cmd uint32, arg uint64, in []byte, outSize uint32) []byte {
	body := make([]byte, ioctlInSize)
	le.PutUint32(body[12:], cmd)
	le.PutUint64(body[16:], arg)
	le.PutUint32(body[24:], uint32(len(in)))
	le.PutUint32(body[28:], outSize)
	return fuseMessage(opIoctl, 77, append(body, in...))
}

// ioctl does what the kernel's fuse_do_ioctl does: fetch, ask, copy back.
func ioctl(t *testing.T, d *Device, mem memory, cmd uint32, arg uint64) (rounds int, errno syscall.Errno) {
	t.Helper()
	var in, out []iovec
	for rounds = 1; ; rounds++ {
		if rounds > 5 {
			t.Fatal("the call does not end")
		}
		var data []byte
		for _, v := range in {
			piece := mem.at(v.base, v.length)
			if piece == nil {
				return rounds, syscall.EFAULT
			}
			data = append(data, piece...)
		}
		reply, err := d.Answer(t.Context(), ioctlMessage(cmd, arg, data, uint32(total(out))))
		if err != nil {
			t.Fatal(err)
		}
		if le.Uint32(reply) != uint32(len(reply)) || le.Uint64(reply[8:]) != 77 {
			t.Fatalf("reply header % x", reply[:outHeaderSize])
		}
		if e := -int32(le.Uint32(reply[4:])); e != 0 {
			return rounds, syscall.Errno(e)
		}
		head, rest := reply[outHeaderSize:outHeaderSize+ioctlOutSize], reply[outHeaderSize+ioctlOutSize:]
		if le.Uint32(head[4:])&ioctlRetry == 0 {
			if uint64(len(rest)) > total(out) {
				t.Fatalf("%d bytes for room of %d", len(rest), total(out))
			}
			for _, v := range out {
				piece := mem.at(v.base, v.length)
				if piece == nil {
					return rounds, syscall.EFAULT
				}
				rest = rest[copy(piece, rest):]
			}
			return rounds, syscall.Errno(-int32(le.Uint32(head)))
		}
		nin, nout := le.Uint32(head[8:]), le.Uint32(head[12:])
		var vecs []iovec
		for ; len(rest) >= iovecSize; rest = rest[iovecSize:] {
			vecs = append(vecs, iovec{le.Uint64(rest), le.Uint64(rest[8:])})
		}
		if uint32(len(vecs)) != nin+nout || len(rest) != 0 {
			t.Fatalf("%d iovecs, want %d and %d", len(vecs), nin, nout)
		}
		in, out = vecs[:nin], vecs[nin:]
	}
}

// psp is a secure processor that remembers what it was asked.
type psp struct {
	kind   byte
	body   []byte
	answer link.Answer
	err    error
}

func (p *psp) Do(_ context.Context, kind byte, body []byte) (*link.Answer, error) {
	p.kind, p.body = kind, bytes.Clone(body)
	if err := link.CheckRequest(kind, body); err != nil {
		return nil, err
	}
	return &p.answer, p.err
}

const argAt, reqAt, respAt, certsAt = 0x1000, 0x2000, 0x3000, 0x10000

func caller(reqSize int) memory {
	mem := memory{argAt: make([]byte, outerSize), reqAt: make([]byte, reqSize), respAt: make([]byte, reportRespSize), certsAt: make([]byte, 5*link.PageSize)}
	mem[argAt][0] = 1
	le.PutUint64(mem[argAt][8:], reqAt)
	le.PutUint64(mem[argAt][16:], respAt)
	for i := range mem[reqAt] {
		mem[reqAt][i] = byte(i)
	}
	return mem
}

func TestReportAndKey(t *testing.T) {
	for _, tc := range []struct {
		cmd     uint32
		reqSize int
		rspSize int
		kind    byte
	}{
		{ioctlGetReport, link.ReportReqSize, link.ReportRspSize, link.KindReport},
		{ioctlGetDerivedKey, link.KeyReqSize, link.KeyRspSize, link.KindKey},
	} {
		p := &psp{answer: link.Answer{Message: bytes.Repeat([]byte{0xab}, tc.rspSize)}}
		mem := caller(tc.reqSize)
		rounds, errno := ioctl(t, NewDevice(p), mem, tc.cmd, argAt)
		if rounds != 3 || errno != 0 || p.kind != tc.kind || !bytes.Equal(p.body, mem[reqAt]) ||
			!bytes.HasPrefix(mem[respAt], p.answer.Message) || le.Uint64(mem[argAt][24:]) != 0 {
			t.Errorf("%#x: %d rounds, %v, asked %d % x", tc.cmd, rounds, errno, p.kind, p.body)
		}
		p.answer = link.Answer{ExitInfo: 0x16}
		if _, errno := ioctl(t, NewDevice(p), mem, tc.cmd, argAt); errno != syscall.EIO || le.Uint64(mem[argAt][24:]) != 0x16 {
			t.Errorf("%#x: firmware error gives %v", tc.cmd, errno)
		}
		p.err = errors.New("the line is dead")
		if _, errno := ioctl(t, NewDevice(p), mem, tc.cmd, argAt); errno != syscall.EIO || le.Uint64(mem[argAt][24:]) != noFirmwareCall {
			t.Errorf("%#x: a dead line gives %v", tc.cmd, errno)
		}
	}
}

func TestExtReport(t *testing.T) {
	certs := bytes.Repeat([]byte{0xcd}, link.PageSize)
	p := &psp{answer: link.Answer{Message: make([]byte, link.ReportRspSize), Certs: certs}}
	mem := caller(extReqSize)
	room := func(addr uint64, n uint32) {
		le.PutUint64(mem[reqAt][96:], addr)
		le.PutUint32(mem[reqAt][104:], n)
	}

	room(certsAt, 2*link.PageSize)
	rounds, errno := ioctl(t, NewDevice(p), mem, ioctlGetExtReport, argAt)
	if rounds != 4 || errno != 0 || !bytes.Equal(mem[certsAt][:link.PageSize], certs) || mem[certsAt][link.PageSize] != 0 ||
		p.kind != link.KindExtReport || le.Uint32(p.body[96:]) != 2*link.PageSize {
		t.Errorf("%d rounds, %v, asked % x", rounds, errno, p.body)
	}

	p.answer = link.Answer{ExitInfo: link.ErrInvalidLength, Needed: link.PageSize}
	for _, none := range [][2]uint64{{0, 0}, {certsAt, 0}, {0, link.PageSize}} {
		room(none[0], uint32(none[1]))
		if _, errno := ioctl(t, NewDevice(p), mem, ioctlGetExtReport, argAt); errno != syscall.EIO ||
			le.Uint64(mem[argAt][24:]) != link.ErrInvalidLength || le.Uint32(mem[reqAt][104:]) != link.PageSize || le.Uint32(p.body[96:]) != 0 {
			t.Errorf("room %v: %v, length %d", none, errno, le.Uint32(mem[reqAt][104:]))
		}
	}
	for _, n := range []uint32{1, link.PageSize + 1, link.MaxCerts + link.PageSize, 0xfffff000} {
		room(certsAt, n)
		if _, errno := ioctl(t, NewDevice(p), mem, ioctlGetExtReport, argAt); errno != syscall.EINVAL {
			t.Errorf("room of %d bytes: %v", n, errno)
		}
	}
}

func TestBadCalls(t *testing.T) {
	p := &psp{answer: link.Answer{Message: make([]byte, link.ReportRspSize)}}
	d := NewDevice(p)
	for name, tc := range map[string]struct {
		change func(memory)
		cmd    uint32
		arg    uint64
		want   syscall.Errno
	}{
		"unknown ioctl":   {nil, 0xc0205303, argAt, syscall.ENOTTY},
		"version 0":       {func(m memory) { m[argAt][0] = 0 }, ioctlGetReport, argAt, syscall.EINVAL},
		"no request":      {func(m memory) { clear(m[argAt][8:16]) }, ioctlGetReport, argAt, syscall.EINVAL},
		"no response":     {func(m memory) { clear(m[argAt][16:24]) }, ioctlGetReport, argAt, syscall.EINVAL},
		"bad argument":    {nil, ioctlGetReport, 16, syscall.EFAULT},
		"request nowhere": {func(m memory) { delete(m, reqAt) }, ioctlGetReport, argAt, syscall.EFAULT},
	} {
		mem := caller(link.ReportReqSize)
		if tc.change != nil {
			tc.change(mem)
		}
		p.kind = 0
		if _, errno := ioctl(t, d, mem, tc.cmd, tc.arg); errno != tc.want || p.kind != 0 {
			t.Errorf("%s: %v, want %v; asked %#x", name, errno, tc.want, p.kind)
		}
	}
	compat := ioctlMessage(ioctlGetReport, argAt, nil, 0)
	le.PutUint32(compat[inHeaderSize+8:], ioctlCompat)
	if reply, _ := d.Answer(t.Context(), compat); -int32(le.Uint32(reply[4:])) != int32(syscall.ENOTTY) {
		t.Error("a 32-bit caller was served")
	}
}

func TestOtherMessages(t *testing.T) {
	d := NewDevice(&psp{})
	for _, tc := range []struct {
		opcode uint32
		errno  syscall.Errno
		size   int // of the reply, 0 for none
	}{
		{opOpen, 0, 32}, {opRelease, 0, 16}, {opFlush, 0, 16}, {opInterrupt, 0, 0},
		{15, syscall.EINVAL, 16}, {16, syscall.EINVAL, 16}, {40, syscall.EINVAL, 16}, {opInit, syscall.EINVAL, 16},
	} {
		reply, err := d.Answer(t.Context(), fuseMessage(tc.opcode, 5, make([]byte, 8)))
		if err != nil || len(reply) != tc.size {
			t.Errorf("opcode %d: %d bytes, %v", tc.opcode, len(reply), err)
		} else if tc.size > 0 && syscall.Errno(-int32(le.Uint32(reply[4:]))) != tc.errno {
			t.Errorf("opcode %d: % x", tc.opcode, reply)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 39), make([]byte, 40), fuseMessage(opOpen, 1, nil)[:39]} {
		if _, err := d.Answer(t.Context(), b); !errors.Is(err, errFormat) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestInit(t *testing.T) {
	body := make([]byte, 16)
	le.PutUint32(body, 7)
	le.PutUint32(body[4:], 38)
	reply, err := initReply(fuseMessage(opInit, 2, body))
	if err != nil || len(reply) != 16+72+len("DEVNAME=sev-guest")+1 {
		t.Fatalf("%d bytes, %v", len(reply), err)
	}
	out := reply[16:]
	if le.Uint32(out) != 7 || le.Uint32(out[4:]) != 38 || le.Uint32(out[12:]) != flagUnrestricted || string(out[72:]) != "DEVNAME=sev-guest\x00" {
		t.Errorf("% x", reply)
	}
	le.PutUint32(body, 8)
	for _, b := range [][]byte{fuseMessage(opInit, 2, body), fuseMessage(opInit, 2, body[:8]), fuseMessage(opOpen, 2, body), nil} {
		if _, err := initReply(b); err == nil {
			t.Errorf("accepted % x", b)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	mem := caller(extReqSize)
	le.PutUint64(mem[reqAt][96:], certsAt)
	le.PutUint32(mem[reqAt][104:], link.PageSize)
	arg, ext := mem[argAt], append(bytes.Clone(mem[argAt]), mem[reqAt]...)
	f.Add(ioctlMessage(ioctlGetReport, argAt, nil, 0))
	f.Add(ioctlMessage(ioctlGetReport, argAt, arg, 0))
	f.Add(ioctlMessage(ioctlGetReport, argAt, ext[:outerSize+link.ReportReqSize], outerSize+reportRespSize))
	f.Add(ioctlMessage(ioctlGetExtReport, argAt, ext, outerSize+extReqSize+reportRespSize+link.PageSize))
	f.Add(fuseMessage(opOpen, 1, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &psp{answer: link.Answer{Message: make([]byte, link.ReportRspSize), Certs: make([]byte, link.PageSize)}}
		reply, err := NewDevice(p).Answer(t.Context(), b)
		if err != nil || reply == nil {
			return
		}
		if len(reply) < outHeaderSize || le.Uint32(reply) != uint32(len(reply)) || le.Uint64(reply[8:]) != le.Uint64(b[8:]) {
			t.Fatalf("reply % x", reply)
		}
		if p.kind != 0 {
			if err := link.CheckRequest(p.kind, p.body); err != nil {
				t.Error(err)
			}
			outSize := le.Uint32(b[inHeaderSize+28:])
			if n := len(reply) - outHeaderSize - ioctlOutSize; n > int(outSize) {
				t.Errorf("%d bytes for room of %d", n, outSize)
			}
		}
	})
}
