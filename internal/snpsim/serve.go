package snpsim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"attestbox/internal/snp"
	"attestbox/internal/snpsim/link"
)

// Serve answers the guest's requests (package link) on conn, which is QEMU's
// socket of the virtio-serial port, until conn ends (nil), fails, or ctx is
// done; then conn is closed if it can be. Whatever is not a frame is dropped,
// so that it outlives guests that die in the middle of one.
func (g *Guest) Serve(ctx context.Context, conn io.ReadWriter) error {
	if c, ok := conn.(io.Closer); ok {
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
	}
	in := link.NewRequestReader(conn)
	for {
		f, err := in.Next()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
			return nil
		case err != nil:
			return err
		}
		if _, err := conn.Write(g.respond(f).Marshal()); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}

// respond answers one frame.
func (g *Guest) respond(f *link.Frame) *link.Frame {
	out := &link.Frame{Kind: link.KindRefused, Tag: f.Tag}
	if f.Kind != link.KindReport && f.Kind != link.KindExtReport && f.Kind != link.KindKey {
		out.Body = []byte{link.RefusedKind}
		return out
	}
	if link.CheckRequest(f.Kind, f.Body) != nil {
		out.Body = []byte{link.RefusedBody}
		return out
	}
	out.Kind = f.Kind | link.KindAnswer
	out.Body = g.Handle(f.Kind, f.Body).Marshal()
	return out
}

// Handle answers a request whose shape was checked (link.CheckRequest).
func (g *Guest) Handle(kind byte, body []byte) *link.Answer {
	switch kind {
	case link.KindReport:
		return &link.Answer{Message: g.reportRsp(body)}
	case link.KindExtReport:
		// The host looks at the room before it asks the firmware.
		certs := g.psp.paddedTable()
		if room := binary.LittleEndian.Uint32(body[link.ReportReqSize:]); int(room) < len(certs) {
			return &link.Answer{ExitInfo: link.ErrInvalidLength, Needed: uint32(len(certs))}
		}
		return &link.Answer{Message: g.reportRsp(body[:link.ReportReqSize]), Certs: certs}
	default:
		return &link.Answer{Message: g.keyRsp(body)}
	}
}

// reportRsp is MSG_REPORT_RSP for a MSG_REPORT_REQ: REPORT_DATA (64 bytes),
// VMPL (4), KEY_SEL (4, bits 1:0), reserved (24).
func (g *Guest) reportRsp(req []byte) []byte {
	rsp := make([]byte, link.ReportRspSize)
	le := binary.LittleEndian
	keySel := le.Uint32(req[68:])
	switch {
	case !zero(req[72:]) || keySel > 2:
		le.PutUint32(rsp, StatusInvalidParam)
		return rsp
	case keySel == 2: // VLEK, none is loaded
		le.PutUint32(rsp, StatusInvalidKey)
		return rsp
	}
	report, err := g.Report([64]byte(req[:64]), le.Uint32(req[64:]))
	if err != nil {
		le.PutUint32(rsp, status(err))
		return rsp
	}
	le.PutUint32(rsp[4:], snp.ReportSize)
	copy(rsp[0x20:], report)
	return rsp
}

// keyRsp is MSG_KEY_RSP for a MSG_KEY_REQ: ROOT_KEY_SELECT (4), reserved (4),
// GUEST_FIELD_SELECT (8), VMPL (4), GUEST_SVN (4), TCB_VERSION (8), and in
// version 2 LAUNCH_MIT_VECTOR (8).
func (g *Guest) keyRsp(req []byte) []byte {
	rsp := make([]byte, link.KeyRspSize)
	le := binary.LittleEndian
	q := KeyRequest{
		Version:          1,
		RootKeySelect:    le.Uint32(req),
		GuestFieldSelect: le.Uint64(req[8:]),
		VMPL:             le.Uint32(req[16:]),
		GuestSVN:         le.Uint32(req[20:]),
		TCBVersion:       le.Uint64(req[24:]),
	}
	if len(req) == link.KeyReqSizeV2 {
		q.Version, q.LaunchMitVector = 2, le.Uint64(req[32:])
	}
	if !zero(req[4:8]) {
		le.PutUint32(rsp, StatusInvalidParam)
		return rsp
	}
	key, err := g.DerivedKey(q)
	if err != nil {
		le.PutUint32(rsp, status(err))
		return rsp
	}
	copy(rsp[0x20:], key[:])
	return rsp
}

func status(err error) uint32 {
	if errors.Is(err, ErrInvalidKey) {
		return StatusInvalidKey
	}
	return StatusInvalidParam
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
