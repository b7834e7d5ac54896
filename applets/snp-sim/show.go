package snpsim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"attestbox/internal/applet"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
)

// chipInfo is what show prints.
type chipInfo struct {
	Simulated     string `json:"simulated"`
	Product       string `json:"product"`
	ChipID        string `json:"chip_id"`
	ReportVersion uint32 `json:"report_version"`
	CurrentTCB    string `json:"current_tcb"`
	CommittedTCB  string `json:"committed_tcb"`
	ReportedTCB   string `json:"reported_tcb"`
	RawTCB        string `json:"reported_tcb_raw"`
	Firmware      string `json:"firmware"`
	PlatformInfo  string `json:"platform_info"`
	ARK           string `json:"ark_sha256"`
	ASK           string `json:"ask_sha256"`
	VCEK          string `json:"vcek_sha256"`
}

func runShow(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("show -chip DIR [-json]", "snp-sim show -chip chip")
	dir := fs.String("chip", "", "chip `folder`, made by snp-sim init; required")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *dir == "" {
		return fs.Usage("show needs -chip DIR")
	}
	p, err := loadChip(*dir)
	if err != nil {
		return err
	}
	id, s := p.ChipID(), p.State()
	info := chipInfo{
		Simulated: "NOT AMD HARDWARE", Product: string(p.Product()), ChipID: hex.EncodeToString(id[:p.Product().ChipIDSize()]),
		ReportVersion: s.ReportVersion, CurrentTCB: s.Current.String(), CommittedTCB: s.Committed.String(), ReportedTCB: s.Reported.String(),
		RawTCB: fmt.Sprintf("%016x", snp.EncodeTCB(p.Product(), s.Reported)), Firmware: s.Firmware.String(), PlatformInfo: s.Platform.String(),
		ARK: fingerprint(p.ARK()), ASK: fingerprint(p.ASK()), VCEK: fingerprint(p.VCEK()),
	}
	if *asJSON {
		enc := json.NewEncoder(env.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(info)
	}
	for _, line := range [][2]string{
		{"simulated", info.Simulated}, {"product", info.Product}, {"chip ID", info.ChipID},
		{"report version", fmt.Sprint(info.ReportVersion)}, {"current TCB", info.CurrentTCB}, {"committed TCB", info.CommittedTCB},
		{"reported TCB", info.ReportedTCB}, {"reported TCB, raw", info.RawTCB}, {"firmware", info.Firmware}, {"platform info", info.PlatformInfo},
		{"ARK SHA-256", info.ARK}, {"ASK SHA-256", info.ASK}, {"VCEK SHA-256", info.VCEK},
	} {
		fmt.Fprintf(env.Stdout, "%-18s %s\n", line[0], line[1])
	}
	return nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func loadChip(dir string) (*snpsim.PSP, error) {
	p, err := snpsim.Load(dir)
	return p, applet.WithHint(err, "make a chip with: snp-sim init -chip "+dir)
}
