package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
	"attestbox/internal/snp"
)

// maxReport bounds what is read of a report, in bytes: its hexadecimal form, and
// what may stand around it.
const maxReport = 4 * snp.ReportSize

// reported is what -against compares with.
type reported struct {
	digest [48]byte
	cpu    uint32   // signature of the chip, 0 where the report does not say
	notes  []string // what the report itself says of the guest
}

// measuredAgainst is the outcome, as -json prints it.
type measuredAgainst struct {
	Digest  string   `json:"digest"` // the report's
	Same    bool     `json:"same"`
	Changes []string `json:"changes,omitempty"` // of the flags, for the report's digest
	Tried   int      `json:"tried"`
	Notes   []string `json:"notes,omitempty"` // from the report; its signature is not checked
}

// readReported takes a digest as it is, or a file with a report or a digest.
func readReported(env *applet.Env, name string) (*reported, error) {
	if d, err := hex.DecodeString(name); err == nil && len(d) == 48 {
		return &reported{digest: [48]byte(d)}, nil
	}
	b, err := applet.ReadFile(env, name, maxReport)
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	r, err := parseReported(b)
	if err != nil {
		return nil, fmt.Errorf("reading the report %q: %w", name, err)
	}
	return r, nil
}

// parseReported reads a report's 1,184 bytes, or those or a digest in
// hexadecimal or base64.
func parseReported(b []byte) (*reported, error) {
	if len(b) != snp.ReportSize {
		text := strings.Join(strings.Fields(string(b)), "")
		raw, err := hex.DecodeString(text)
		if err != nil {
			raw, err = base64.StdEncoding.DecodeString(text)
		}
		switch {
		case err == nil && len(raw) == 48:
			return &reported{digest: [48]byte(raw)}, nil
		case err != nil || len(raw) != snp.ReportSize:
			return nil, fmt.Errorf("neither a report of %d bytes nor a digest of 48, raw, in hexadecimal or in base64", snp.ReportSize)
		}
		b = raw
	}
	r, err := snp.Parse(b)
	if err != nil {
		return nil, err
	}
	out := &reported{digest: r.Measurement}
	if r.CPUIDFamily != 0 {
		out.cpu = measure.Signature(r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping)
	}
	note := func(is bool, text string) {
		if is {
			out.notes = append(out.notes, text)
		}
	}
	note(r.Policy.Debug(), "its guest policy has DEBUG: the host may read and change the guest, whatever the digest says")
	note(r.Policy.MigrateMA(), "its guest policy allows a migration agent")
	note(r.VMPL == snp.VMPLHost, "the host asked for it, not the guest")
	note(r.VMPL != snp.VMPLHost && r.VMPL != 0, fmt.Sprintf("it was asked for at VMPL %d: an SVSM or a paravisor runs below (-mode snp:svsm)", r.VMPL))
	note(r.IDKeyDigest != [48]byte{}, "it was launched with an ID block, which the chip compared with this digest")
	note(r.HostData == [32]byte{}, "its HOST_DATA is zero: the launch named no instance")
	return out, nil
}

// compare looks for the launch that the report is of. The error of another
// digest says what differs.
func (f *measureFlags) compare(cfg *measure.Config, r *reported) (*measuredAgainst, error) {
	found, err := measure.Against(*cfg, r.digest, r.cpu)
	if err != nil {
		return nil, err
	}
	return r.found(found), nil
}

func (r *reported) found(f *measure.Finding) *measuredAgainst {
	return &measuredAgainst{Digest: hex.EncodeToString(r.digest[:]), Same: f.Same, Changes: f.Changes, Tried: f.Tried, Notes: r.notes}
}

// refusal is the error of a digest that differs, nil when it does not.
func (a *measuredAgainst) refusal(computed string) error {
	switch {
	case a.Same:
		return nil
	case len(a.Changes) > 0:
		return applet.WithHint(applet.Refused(code.MeasureDiffers, fmt.Errorf("the report has launch digest %s, computed was %s: the VM was launched with %s",
			a.Digest, computed, strings.Join(a.Changes, "; and with "))),
			"launch it as it was measured, or measure it as it was launched")
	}
	return applet.WithHint(applet.Refused(code.MeasureDiffers, fmt.Errorf("the report has launch digest %s, computed was %s: none of %d digests of launches near this one is the report's",
		a.Digest, computed, a.Tried)),
		"firmware, kernel or initramfs have other contents, or more than two inputs differ: compare the files' SHA-256 (-json) with those on the host")
}
