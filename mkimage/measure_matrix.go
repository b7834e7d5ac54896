package main

import (
	"encoding/hex"
	"fmt"
	"text/tabwriter"

	"attestbox/internal/applet"
	"attestbox/internal/measure"
)

// measuredCell is one launch of -matrix, as -json prints it.
type measuredCell struct {
	VCPUs         int    `json:"vcpus"`
	VCPUType      string `json:"vcpu_type,omitempty"`
	VCPUSig       string `json:"vcpu_sig,omitempty"`
	GuestFeatures string `json:"guest_features"`
	VMM           string `json:"vmm"`
	Host          string `json:"host,omitempty"`
	Digest        string `json:"digest"` // hex
	Complete      bool   `json:"complete"`
	Why           string `json:"why,omitempty"`
}

// printMatrix prints the digests of all combinations, a table or JSON.
func (f *measureFlags) printMatrix(env *applet.Env, cfg *measure.Config) error {
	cells, err := measure.Matrix(*cfg, f.axes)
	if err != nil {
		return err
	}
	// What a digest covers is the same for every cell: see measure.Matrix.
	one := *cfg
	one.VCPUs, one.VCPUType, one.VCPUSig, one.GuestFeatures, one.Host = cells[0].VCPUs, cells[0].VCPUType, cells[0].VCPUSig, cells[0].GuestFeatures, cells[0].Host
	r, err := measure.SNP(one)
	if err != nil {
		return err
	}
	r.Complete, r.Why = f.covers(r.Complete, r.Why)
	warnIncomplete(env, r.Complete, r.Why)
	if f.json {
		list := make([]measuredCell, len(cells))
		for i, c := range cells {
			list[i] = measuredCell{VCPUs: c.VCPUs, VCPUType: c.VCPUType, GuestFeatures: fmt.Sprintf("%#x", c.GuestFeatures), VMM: cfg.VMM,
				Host: c.Host, Digest: hex.EncodeToString(c.Digest[:]), Complete: r.Complete, Why: r.Why}
			if c.VCPUSig != 0 {
				list[i].VCPUSig = fmt.Sprintf("%#x", c.VCPUSig)
			}
		}
		return printJSON(env.Stdout, list)
	}
	tw := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "VCPUS\tTYPE\tSIGNATURE\tFEATURES\tHOST\tDIGEST")
	for _, c := range cells {
		sig, kind, host := "-", "-", "-"
		if c.VCPUSig != 0 {
			sig = fmt.Sprintf("%#x", c.VCPUSig)
		}
		if c.VCPUType != "" {
			kind = c.VCPUType
		}
		if c.Host != "" {
			host = c.Host
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%#x\t%s\t%s\n", c.VCPUs, kind, sig, c.GuestFeatures, host, f.text(hex.EncodeToString(c.Digest[:])))
	}
	return tw.Flush()
}
