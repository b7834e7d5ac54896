// Package sevguest asks an AMD SEV-SNP guest's secure processor for reports:
// through configfs-tsm (Linux 6.7 and later), else through /dev/sev-guest.
//
// Sources: Linux Documentation/ABI/testing/configfs-tsm-report and
// include/uapi/linux/sev-guest.h; AMD 56860 section 7 (MSG_REPORT_REQ); the
// certificate table is that of the GHCB specification, AMD 56421, "SNP Extended
// Guest Request". The structures are go-sev-guest's (client/linuxabi) and
// go-configfs-tsm's; the ioctl call is ours, because that client waits two
// seconds between any two commands.
//
// It does not verify what it gets: the verifier does.
package sevguest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/wire"
)

// DevicePath is the character device of the kernel's sev-guest driver.
const DevicePath = "/dev/sev-guest"

// reportSize is the length of an SNP report (AMD 56860, ATTESTATION_REPORT).
const reportSize = 1184

// Open finds the platform's driver.
func Open() (platform.Platform, error) {
	var why []string
	if client, err := linuxtsm.MakeClient(); err != nil {
		why = append(why, "configfs-tsm: "+err.Error())
	} else if p, err := openTSM(client); err != nil {
		why = append(why, "configfs-tsm: "+err.Error())
	} else {
		return p, nil
	}
	p, err := openDevice(DevicePath)
	if err != nil {
		why = append(why, err.Error())
		return nil, code.Wrap(code.PlatformNone, fmt.Errorf("no SEV-SNP guest device: %s", strings.Join(why, "; ")))
	}
	return p, nil
}

// tsm is the configfs-tsm driver.
type tsm struct{ client configfsi.Client }

// openTSM checks that the provider behind configfs-tsm is the SNP one: on
// another TEE the same interface gives another kind of report.
func openTSM(client configfsi.Client) (platform.Platform, error) {
	r, err := report.Create(client, &report.Request{})
	if err != nil {
		return nil, err
	}
	defer r.Destroy()
	provider, err := r.ReadOption("provider")
	if err != nil {
		return nil, err
	}
	if got := strings.TrimSpace(string(provider)); got != "sev_guest" {
		return nil, fmt.Errorf("provider is %q, not sev_guest", got)
	}
	return &tsm{client}, nil
}

func (t *tsm) Name() string { return platform.AMDSEVSNP }
func (t *tsm) Close() error { return nil }

// generationTries bounds how often a report is asked for again because
// somebody else used the same configfs entry meanwhile.
const generationTries = 3

func (t *tsm) Report(ctx context.Context, reportData [64]byte) (*platform.Evidence, error) {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		resp, err := report.Get(t.client, &report.Request{InBlob: reportData[:], GetAuxBlob: true})
		switch {
		case report.GetGenerationErr(err) != nil && try < generationTries:
			continue
		case err != nil:
			// A provider without certificates for the guest may not offer
			// auxblob at all.
			resp, err = report.Get(t.client, &report.Request{InBlob: reportData[:]})
			if err != nil {
				return nil, fmt.Errorf("configfs-tsm: %w", err)
			}
		}
		return evidence(resp.OutBlob, resp.AuxBlob)
	}
}

// evidence checks lengths and unpacks the host's certificates. A malformed
// certificate table is the host's to answer for: the report goes without it.
func evidence(rep, certs []byte) (*platform.Evidence, error) {
	if len(rep) != reportSize {
		return nil, fmt.Errorf("report of %d bytes, want %d", len(rep), reportSize)
	}
	endorsements, err := parseCertTable(certs)
	if err != nil {
		endorsements = nil
	}
	return &platform.Evidence{Platform: platform.AMDSEVSNP, Report: rep, Endorsements: endorsements}, nil
}

func openDevice(path string) (platform.Platform, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist", path)
	}
	if err != nil {
		return nil, err
	}
	return &device{f}, nil
}

// certificate table GUIDs, AMD 56421 table "SNP Extended Guest Request
// certificate data structure", in the byte order of their text form.
var certKinds = map[string]string{
	"63da758de6644564adc5f4b93be8accd": "vek", // VCEK
	"a8074bc2a25a483eaae639c045a0b8a1": "vek", // VLEK
	"4ab7b379bbac4fe4a02f05aef327c782": "ask", // ASK, and ASVK
	"c0b406a4a803495297433fb6014cd0ae": "ark",
	"92f81bc358114d3d97ffd19f88dc67ea": "crl",
}

// maxEndorsementBytes bounds what is passed on of the host's certificates, so
// that evidence fits into one frame (wire.MaxFrame) once it is base64.
const maxEndorsementBytes = 32 << 10

// parseCertTable reads entries of 24 bytes {GUID 16, offset u32, length u32}
// up to one of zeros, and takes what it knows. Nothing at all is an empty table.
// An object that no longer fits is left out: the table is the host's, and it
// must not decide whether the evidence can be sent at all.
func parseCertTable(b []byte) ([]wire.Endorsement, error) {
	const entry = 24
	var out []wire.Endorsement
	total := 0
	for at := 0; len(b) > 0; at += entry {
		if at+entry > len(b) {
			return nil, errors.New("certificate table has no end")
		}
		guid := fmt.Sprintf("%x", b[at:at+16])
		off, n := le32(b[at+16:]), le32(b[at+20:])
		if guid == strings.Repeat("0", 32) && off == 0 && n == 0 {
			break
		}
		if uint64(off)+uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("certificate %s lies outside the table", guid)
		}
		kind, known := certKinds[guid]
		if !known || n == 0 || total+int(n) > maxEndorsementBytes {
			continue
		}
		total += int(n)
		if len(out) == wire.MaxEndorsements {
			return nil, fmt.Errorf("more than %d certificates", wire.MaxEndorsements)
		}
		out = append(out, wire.Endorsement{Kind: kind, DER: append([]byte(nil), b[off:off+n]...)})
	}
	return out, nil
}
