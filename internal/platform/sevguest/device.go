package sevguest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/google/go-sev-guest/client/linuxabi"
	"golang.org/x/sys/unix"

	"attestbox/internal/platform"
)

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// VMM errors in the high half of fw_err (AMD 56421, SNP_GUEST_VMM_ERR_*).
const (
	vmmInvalidLen = uint64(1) << 32
	vmmBusy       = uint64(2) << 32
)

// maxCerts bounds the buffer for the host's certificates: 30 pages are usual.
const maxCerts = 64 * 4096

// busyTries and busyWait bound the retries when the host throttles requests:
// about 6 s in all, within one exchange.
const (
	busyTries = 12
	busyWait  = 500 * time.Millisecond
)

// device is the /dev/sev-guest driver.
type device struct{ f *os.File }

func (d *device) Name() string { return platform.AMDSEVSNP }
func (d *device) Close() error { return d.f.Close() }

// Report asks for an extended report; without certificates from the host, for
// a plain one.
func (d *device) Report(ctx context.Context, reportData [64]byte) (*platform.Evidence, error) {
	size, err := d.certsLength(ctx, reportData)
	if err != nil || size == 0 {
		rep, err := d.report(ctx, reportData)
		if err != nil {
			return nil, err
		}
		return evidence(rep, nil)
	}
	certs := make([]byte, size)
	req := &linuxabi.SnpExtendedReportReq{Data: linuxabi.SnpReportReqABI{ReportData: reportData}, Certs: certs, CertsLength: size}
	resp := new(linuxabi.SnpReportRespABI)
	if _, err := d.ioctl(ctx, linuxabi.IocSnpGetExtendedReport, req, resp); err != nil {
		return nil, fmt.Errorf("SNP_GET_EXT_REPORT: %w", err)
	}
	rep, err := respReport(resp)
	if err != nil {
		return nil, err
	}
	return evidence(rep, certs)
}

// certsLength asks with no buffer how many bytes the host's certificates need.
func (d *device) certsLength(ctx context.Context, reportData [64]byte) (uint32, error) {
	req := &linuxabi.SnpExtendedReportReq{Data: linuxabi.SnpReportReqABI{ReportData: reportData}}
	resp := new(linuxabi.SnpReportRespABI)
	fwErr, err := d.ioctl(ctx, linuxabi.IocSnpGetExtendedReport, req, resp)
	if err == nil {
		return 0, nil // a report came without certificates
	}
	if fwErr != vmmInvalidLen {
		return 0, err
	}
	if req.CertsLength > maxCerts {
		return 0, fmt.Errorf("host offers %d bytes of certificates, at most %d are taken", req.CertsLength, maxCerts)
	}
	return req.CertsLength, nil
}

func (d *device) report(ctx context.Context, reportData [64]byte) ([]byte, error) {
	resp := new(linuxabi.SnpReportRespABI)
	if _, err := d.ioctl(ctx, linuxabi.IocSnpGetReport, &linuxabi.SnpReportReqABI{ReportData: reportData}, resp); err != nil {
		return nil, fmt.Errorf("SNP_GET_REPORT: %w", err)
	}
	return respReport(resp)
}

func respReport(resp *linuxabi.SnpReportRespABI) ([]byte, error) {
	if resp.Status != 0 {
		return nil, fmt.Errorf("secure processor answered with status %#x", resp.Status)
	}
	if resp.ReportSize != reportSize {
		return nil, fmt.Errorf("secure processor gave a report of %d bytes, want %d", resp.ReportSize, reportSize)
	}
	return append([]byte(nil), resp.Data[:reportSize]...), nil
}

// ioctl issues one request; while the host says busy it waits and asks again.
func (d *device) ioctl(ctx context.Context, cmd uintptr, req, resp linuxabi.BinaryConvertible) (fwErr uint64, err error) {
	for try := 1; ; try++ {
		guest := &linuxabi.SnpUserGuestRequest{ReqData: req, RespData: resp}
		abi := guest.ABI()
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), cmd, uintptr(abi.Pointer()))
		runtime.KeepAlive(abi)
		if ferr := abi.Finish(guest); ferr != nil && errno == 0 {
			return 0, ferr
		}
		if errno == 0 {
			return 0, nil
		}
		busy := errno == unix.EAGAIN || errno == unix.EIO && guest.FwErr == vmmBusy
		if !busy || try == busyTries {
			return guest.FwErr, fmt.Errorf("%w (fw_err %#x)", errno, guest.FwErr)
		}
		select {
		case <-time.After(busyWait):
		case <-ctx.Done():
			return guest.FwErr, errors.Join(errno, ctx.Err())
		}
	}
}
