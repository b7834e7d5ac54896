package snpsim

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

func runReport(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("report -chip DIR [flags]", "snp-sim report -chip chip -measurement 00..00 -host-data 11..11 -out report.bin")
	dir := fs.String("chip", "", "chip `folder`, made by snp-sim init; required")
	data := fs.String("report-data", "", "REPORT_DATA in `hex`, 64 bytes (default: zeros)")
	measurement := fs.String("measurement", "", "launch digest in `hex`, 48 bytes (default: zeros)")
	hostData := fs.String("host-data", "", "HOST_DATA in `hex`, 32 bytes (default: zeros)")
	policyHex := fs.String("policy", "0x30000", "guest policy in `hex`")
	var id idFlags
	id.register(fs)
	vmpl := fs.Uint("vmpl", 0, "`VMPL`, 0 to 3")
	out := fs.String("out", "-", "write 1184 bytes to `file`; - is stdout")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *dir == "" {
		return fs.Usage("report needs -chip DIR")
	}
	policy, err := strconv.ParseUint(strings.TrimPrefix(*policyHex, "0x"), 16, 64)
	if err != nil || policy&uint64(snp.PolicyReserved1) == 0 {
		return fs.Usage("-policy %q is not a guest policy of 64 bits in hex; bit 17 must be one", *policyHex)
	}
	c := snpsim.GuestConfig{Policy: policy}
	var reportData [64]byte
	for _, f := range []struct {
		name, value string
		to          []byte
	}{{"report-data", *data, reportData[:]}, {"measurement", *measurement, c.Measurement[:]}, {"host-data", *hostData, c.HostData[:]}} {
		if f.value == "" {
			continue
		}
		b, err := hex.DecodeString(f.value)
		if err != nil || len(b) != len(f.to) {
			return fs.Usage("-%s: want %d bytes in hex", f.name, len(f.to))
		}
		copy(f.to, b)
	}
	if *vmpl > 3 {
		return fs.Usage("-vmpl %d, want 0 to 3", *vmpl)
	}
	if err := id.check(fs); err != nil {
		return err
	}
	p, err := loadChip(*dir)
	if err != nil {
		return err
	}
	g, err := id.launch(p, c)
	if err != nil {
		return err
	}
	b, err := g.Report(reportData, uint32(*vmpl))
	if err != nil {
		return err
	}
	return output(env.Stdout, *out, b)
}

func output(stdout io.Writer, path string, b []byte) error {
	if path == "-" {
		_, err := stdout.Write(b)
		return err
	}
	if err := renameio.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
