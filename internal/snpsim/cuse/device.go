package cuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"syscall"

	"attestbox/internal/snpsim/link"
)

// The ioctls and structures of include/uapi/linux/sev-guest.h.
const (
	ioctlGetReport     = 0xc0205300 // _IOWR('S', 0, struct snp_guest_request_ioctl)
	ioctlGetDerivedKey = 0xc0205301
	ioctlGetExtReport  = 0xc0205302

	outerSize      = 32  // struct snp_guest_request_ioctl
	extReqSize     = 112 // struct snp_ext_report_req, padding included
	reportRespSize = 4000

	// noFirmwareCall is what the driver leaves in exitinfo2 when the firmware
	// was never asked (SEV_RET_NO_FW_CALL).
	noFirmwareCall = 0xff
)

// Asker brings a request to the secure processor; link.Client is one.
type Asker interface {
	Do(ctx context.Context, kind byte, body []byte) (*link.Answer, error)
}

// Device answers the kernel's messages for /dev/sev-guest.
type Device struct {
	psp Asker
}

// NewDevice makes a device over a secure processor.
func NewDevice(psp Asker) *Device { return &Device{psp} }

// Answer gives the reply to one message, nil for none. An error means that the
// kernel's message makes no sense.
func (d *Device) Answer(ctx context.Context, b []byte) ([]byte, error) {
	m, err := parseMessage(b)
	if err != nil {
		return nil, err
	}
	switch m.opcode {
	case opOpen:
		return m.reply(0, make([]byte, 16)), nil // struct fuse_open_out
	case opRelease, opFlush:
		return m.reply(0), nil
	case opInterrupt:
		return nil, nil // calls are answered one after the other, soon
	case opIoctl:
		return d.ioctl(ctx, m), nil
	default:
		return m.reply(syscall.EINVAL), nil // as reading from the driver's device
	}
}

// call is an ioctl taken apart.
type call struct {
	cmd     uint32
	arg     uint64
	in      []byte // what the kernel has fetched of the caller's memory
	outSize uint32 // what it is ready to copy back
}

func (d *Device) ioctl(ctx context.Context, m *message) []byte {
	le := binary.LittleEndian
	if len(m.body) < ioctlInSize {
		return m.reply(syscall.EINVAL)
	}
	c := call{cmd: le.Uint32(m.body[12:]), arg: le.Uint64(m.body[16:]), in: m.body[ioctlInSize:], outSize: le.Uint32(m.body[28:])}
	if le.Uint32(m.body[8:])&ioctlCompat != 0 {
		return m.reply(syscall.ENOTTY) // the driver has no compat_ioctl
	}
	if uint64(le.Uint32(m.body[24:])) != uint64(len(c.in)) {
		return m.reply(syscall.EINVAL)
	}
	var reqSize, respSize uint64
	switch c.cmd {
	case ioctlGetReport:
		reqSize, respSize = link.ReportReqSize, reportRespSize
	case ioctlGetDerivedKey:
		reqSize, respSize = link.KeyReqSize, link.KeyRspSize
	case ioctlGetExtReport:
		reqSize, respSize = extReqSize, reportRespSize
	default:
		return m.reply(syscall.ENOTTY)
	}

	arg := iovec{c.arg, outerSize}
	if len(c.in) == 0 {
		return m.retry([]iovec{arg}, nil)
	}
	if len(c.in) < outerSize {
		return m.reply(syscall.EINVAL)
	}
	outer := bytes.Clone(c.in[:outerSize])
	req, resp := iovec{le.Uint64(outer[8:]), reqSize}, iovec{le.Uint64(outer[16:]), respSize}
	if outer[0] == 0 || req.base == 0 || resp.base == 0 { // msg_version
		return m.reply(syscall.EINVAL)
	}
	in := []iovec{arg, req}
	if uint64(len(c.in)) != outerSize+reqSize {
		if len(c.in) != outerSize {
			return m.reply(syscall.EINVAL)
		}
		if c.cmd == ioctlGetExtReport {
			return m.retry(in, nil) // where the certificates go is in the request
		}
		return m.retry(in, []iovec{arg, resp})
	}
	if c.cmd == ioctlGetExtReport {
		return d.extReport(ctx, m, &c, outer, in, resp)
	}
	out := []iovec{arg, resp}
	if uint64(c.outSize) != total(out) {
		return m.retry(in, out)
	}
	kind := byte(link.KindReport)
	if c.cmd == ioctlGetDerivedKey {
		kind = link.KindKey
	}
	a, errno := d.ask(ctx, kind, c.in[outerSize:], outer)
	if errno != 0 {
		return m.result(-int32(errno), outer)
	}
	return m.result(0, outer, padded(a.Message, respSize))
}

// extReport is SNP_GET_EXT_REPORT. struct snp_ext_report_req: snp_report_req
// (96 bytes), certs_address (8), certs_len (4), padding (4).
func (d *Device) extReport(ctx context.Context, m *message, c *call, outer []byte, in []iovec, resp iovec) []byte {
	le := binary.LittleEndian
	req := bytes.Clone(c.in[outerSize:])
	certs := iovec{le.Uint64(req[96:]), uint64(le.Uint32(req[104:]))}
	if certs.base == 0 || certs.length == 0 {
		certs = iovec{} // the caller asks for the length, or wants none
	} else if certs.length > link.MaxCerts || certs.length%link.PageSize != 0 {
		return m.reply(syscall.EINVAL)
	}
	out := []iovec{in[0], in[1], resp}
	if certs.length > 0 {
		out = append(out, certs)
	}
	if uint64(c.outSize) != total(out) {
		return m.retry(in, out)
	}
	body := le.AppendUint32(bytes.Clone(req[:link.ReportReqSize]), uint32(certs.length))
	a, errno := d.ask(ctx, link.KindExtReport, body, outer)
	if errno != 0 {
		if a != nil && a.ExitInfo == link.ErrInvalidLength {
			le.PutUint32(req[104:], a.Needed)
		}
		return m.result(-int32(errno), outer, req)
	}
	// The driver copies certs_len bytes back: the table and zeros after it.
	return m.result(0, outer, req, padded(a.Message, resp.length), padded(a.Certs, certs.length))
}

// ask brings the request to the secure processor and writes exitinfo2 into
// outer.
func (d *Device) ask(ctx context.Context, kind byte, body, outer []byte) (*link.Answer, syscall.Errno) {
	a, err := d.psp.Do(ctx, kind, body)
	if err != nil {
		binary.LittleEndian.PutUint64(outer[24:], noFirmwareCall)
		return nil, syscall.EIO
	}
	binary.LittleEndian.PutUint64(outer[24:], a.ExitInfo)
	if a.ExitInfo != 0 {
		return a, syscall.EIO
	}
	return a, 0
}

func total(v []iovec) (n uint64) {
	for _, x := range v {
		n += x.length
	}
	return n
}

// padded is b with zeros up to n bytes; what is longer is cut.
func padded(b []byte, n uint64) []byte {
	out := make([]byte, n)
	copy(out, b)
	return out
}
