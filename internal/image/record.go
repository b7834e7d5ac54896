package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Names of the files in an output folder.
const (
	InitrdName  = "initrd"
	KernelName  = "vmlinuz"
	CmdlineName = "cmdline"
	RecordName  = "image.json"
)

// Record is image.json: what went into an image, what came out, and the launch
// digest. It holds no path of the building machine, so that it is reproducible
// too. It is information, not evidence: nothing trusts it, Inspect recomputes
// it.
type Record struct {
	Format      int      `json:"format"` // 1
	Tool        Tool     `json:"tool"`
	Debug       bool     `json:"debug"`            // has a shell: never to be trusted
	Simulator   bool     `json:"simulator"`        // has the simulated secure processor's device
	SNPHardware bool     `json:"snp_hardware"`     // the kernel has a driver for the real one
	Stage1      *Stage1  `json:"stage1,omitempty"` // it starts signed bundles, and nothing else
	Notes       []string `json:"notes,omitempty"`

	InstanceID      string       `json:"instance_id,omitempty"` // that the measured configuration brings
	KernelRelease   string       `json:"kernel_release"`
	Cmdline         string       `json:"cmdline"`
	Compress        string       `json:"compress"`
	SourceDateEpoch uint32       `json:"source_date_epoch"`
	Modules         []string     `json:"modules"` // in load order
	SimModules      []string     `json:"sim_modules,omitempty"`
	Recipe          *Recipe      `json:"recipe,omitempty"`
	Inputs          []Input      `json:"inputs"`
	Files           []FileRecord `json:"files"`               // of the initramfs
	Microcode       []FileRecord `json:"microcode,omitempty"` // of the archive in front of it
	Outputs         Outputs      `json:"outputs"`
	Measurement     *Measurement `json:"measurement"`
	UKI             *UKI         `json:"uki,omitempty"`
}

// Tool is what made the image.
type Tool struct {
	Version  string `json:"version"`  // of this module, or its revision
	Go       string `json:"go"`       // Go release
	Compress string `json:"compress"` // version of the compression library: the bytes depend on it
}

// Input is one file that was read.
type Input struct {
	Role   string `json:"role"`           // kernel, module, builtin, guest, config, verity, certificate, file, sim-device, busybox, microcode, module-firmware, uki-stub, uroot, firmware
	Name   string `json:"name"`           // the file's base name
	Path   string `json:"path,omitempty"` // in the image
	Size   int64  `json:"size"`           // bytes
	SHA256 string `json:"sha256"`         // hex
	Build  string `json:"build,omitempty"`
}

// FileRecord is one entry of the initramfs.
type FileRecord struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"` // as ls prints it
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // of a regular file
	Target string `json:"target,omitempty"` // of a symlink
	Device string `json:"device,omitempty"` // major:minor
}

// Output is one file that was written.
type Output struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Outputs are the measured files.
type Outputs struct {
	Initrd  Output `json:"initrd"`
	Kernel  Output `json:"vmlinuz"`
	Cmdline Output `json:"cmdline"` // without the NUL that the digest adds
}

// Measurement is the launch digest and what it is for.
type Measurement struct {
	LaunchDigest  string `json:"launch_digest"` // hex, 48 bytes
	Complete      bool   `json:"complete"`      // covers kernel, initramfs and command line
	Why           string `json:"why,omitempty"` // not complete
	Firmware      Output `json:"firmware"`
	Synthetic     bool   `json:"synthetic_firmware"` // no file was given
	VCPUs         int    `json:"vcpus"`
	VCPUType      string `json:"vcpu_type"`
	GuestFeatures uint64 `json:"guest_features"`
	VMM           string `json:"vmm"`
}

// Marshal gives image.json.
func (r *Record) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

func (o Output) String() string { return fmt.Sprintf("%d bytes, sha256 %s", o.Size, o.SHA256) }

func outputOf(b []byte) Output {
	sum := sha256.Sum256(b)
	return Output{int64(len(b)), hex.EncodeToString(sum[:])}
}

// thisTool reads the versions out of the running binary.
func thisTool(compress string) Tool {
	t := Tool{Version: "unknown", Go: runtime.Version(), Compress: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return t
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		t.Version = v
	} else {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				t.Version = s.Value
			}
		}
	}
	library := "github.com/klauspost/compress"
	if compress == Xz {
		library = "github.com/ulikunitz/xz"
	}
	for _, d := range info.Deps {
		if d.Path == library {
			t.Compress = d.Version
		}
	}
	return t
}
