package image

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"attestbox/internal/image/uroot"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Manifest names everything that goes into an image. As a JSON file it has
// exact-case names and no unknown fields; relative paths in it are relative to
// the file.
type Manifest struct {
	Kernel       string   `json:"kernel"`                 // bzImage
	ModulesDir   string   `json:"modules_dir"`            // .../lib/modules/<release>
	Modules      []string `json:"modules,omitempty"`      // names; "default" stands for the default set; absent = default
	Guest        string   `json:"guest"`                  // static guest binary, becomes /bin/attestbox
	Applets      []string `json:"applets,omitempty"`      // symlinks in /bin; absent = DefaultApplets
	Config       string   `json:"config"`                 // becomes /etc/attestbox/init.json
	Verity       string   `json:"verity,omitempty"`       // record of mkimage disk -verity, becomes root.verity of the configuration
	InstanceID   string   `json:"instance_id,omitempty"`  // 64 hex digits, written into the configuration
	Certificates []string `json:"certificates,omitempty"` // to /etc/attestbox/certs
	Files        []File   `json:"files,omitempty"`        // further files and folders
	Append       string   `json:"append,omitempty"`       // kernel command line, without the required parameters
	Compress     string   `json:"compress,omitempty"`     // zstd (default), xz, gzip, none
	Small        bool     `json:"small,omitempty"`        // zstd at its best level

	Microcode   []string `json:"microcode,omitempty"`    // files of AMD or Intel, for an uncompressed archive in front
	FirmwareDir string   `json:"firmware_dir,omitempty"` // .../lib/firmware, for what the modules name

	URoot []string `json:"uroot,omitempty"` // commands of u-root's cmds/core

	UKI     bool   `json:"uki,omitempty"`      // a unified kernel image, too
	UKIStub string `json:"uki_stub,omitempty"` // systemd's EFI stub; absent = DefaultUKIStub

	SimDevice string `json:"sim_device,omitempty"` // makes a simulator image with this binary
	Debug     bool   `json:"debug,omitempty"`      // adds a shell; needs Busybox
	Busybox   string `json:"busybox,omitempty"`

	// For the launch digest only.
	Firmware      string `json:"ovmf,omitempty"` // absent = synthetic firmware
	VCPUs         int    `json:"vcpus,omitempty"`
	VCPUType      string `json:"vcpu_type,omitempty"`
	Product       string `json:"product,omitempty"` // Milan, Genoa, Turin: gives VCPUType
	GuestFeatures uint64 `json:"guest_features,omitempty"`
	VMM           string `json:"vmm,omitempty"`
}

// File is one further file or folder of an image.
type File struct {
	Path   string `json:"path"`           // in the image, absolute
	Source string `json:"source"`         // a file, or a folder that is copied whole
	Mode   string `json:"mode,omitempty"` // octal; absent = 0755 if the owner may execute the source, else 0644

	// Of an image that is built again from its record, without the source folder.
	link   string // target of a symlink
	folder bool
}

// DefaultApplets are the symlinks that an image has when none are named.
var DefaultApplets = []string{"fetch-secret", "init", "unlock-luks"}

// ParseManifest reads a manifest file's contents; dir is where it lies.
func ParseManifest(data []byte, dir string) (*Manifest, error) {
	m := &Manifest{}
	if err := strictjson.Unmarshal(data, m); err != nil {
		return nil, err
	}
	rel := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, p := range []*string{&m.Kernel, &m.ModulesDir, &m.Guest, &m.Config, &m.Verity, &m.SimDevice, &m.Busybox, &m.Firmware, &m.FirmwareDir, &m.UKIStub} {
		rel(p)
	}
	for i := range m.Certificates {
		rel(&m.Certificates[i])
	}
	for i := range m.Microcode {
		rel(&m.Microcode[i])
	}
	for i := range m.Files {
		rel(&m.Files[i].Source)
	}
	return m, nil
}

// ParseFile reads dst=src[:mode], the form of the -file flag. A mode is three
// or four octal digits, so that a source with a colon in its name can be given.
func ParseFile(s string) (File, error) {
	dst, src, ok := strings.Cut(s, "=")
	if !ok || dst == "" || src == "" {
		return File{}, fmt.Errorf("%q is not DST=SRC or DST=SRC:MODE", s)
	}
	f := File{Path: dst, Source: src}
	if i := strings.LastIndexByte(src, ':'); i > 0 {
		if _, err := parseMode(src[i+1:]); err == nil {
			f.Source, f.Mode = src[:i], src[i+1:]
		}
	}
	return f, nil
}

func parseMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 16)
	if err != nil || n > 0o7777 || len(s) < 3 || len(s) > 5 {
		return 0, fmt.Errorf("mode %q is not three or four octal digits", s)
	}
	return uint32(n), nil
}

// Check says what is missing or contradicts itself, before any file is read.
func (m *Manifest) Check() error {
	for _, need := range []struct{ value, name string }{
		{m.Kernel, "kernel"}, {m.ModulesDir, "modules_dir (-modules-dir)"}, {m.Guest, "guest"}, {m.Config, "config"},
	} {
		if need.value == "" {
			return fmt.Errorf("the image needs a %s", need.name)
		}
	}
	switch {
	case m.Debug && m.Busybox == "" && shellOf(m.URoot) == "":
		return fmt.Errorf("a debug image needs a shell: a static busybox (-busybox FILE) or u-root's (-uroot gosh)")
	case !m.Debug && m.Busybox != "":
		return fmt.Errorf("a busybox is a shell, which only a debug image may have (-debug)")
	case m.VCPUs < 0 || m.VCPUs > 512:
		return fmt.Errorf("%d virtual CPUs are out of range", m.VCPUs)
	}
	if m.InstanceID != "" {
		var id wire.Hex32
		if err := id.UnmarshalText([]byte(m.InstanceID)); err != nil || id.IsZero() {
			return fmt.Errorf("instance ID %.80q: want 64 lower-case hex digits, not all zero", m.InstanceID)
		}
	}
	switch m.Compress {
	case "", Zstd:
	case Xz, Gzip, None:
		if m.Small {
			return fmt.Errorf("small is a level of zstd, not of %s", m.Compress)
		}
	default:
		return errCompression(m.Compress)
	}
	if err := uroot.Check(m.URoot); err != nil {
		return err
	}
	if _, err := m.vcpuType(); err != nil {
		return err
	}
	for _, f := range m.Files {
		if _, err := CleanPath(f.Path); err != nil {
			return err
		}
		if f.Mode != "" {
			if _, err := parseMode(f.Mode); err != nil {
				return fmt.Errorf("file %q: %w", f.Path, err)
			}
		}
	}
	return nil
}

// vcpuType is the QEMU CPU model that the launch digest is for.
func (m *Manifest) vcpuType() (string, error) {
	models := map[string]string{"": "EPYC-Milan", "Milan": "EPYC-Milan", "Genoa": "EPYC-Genoa", "Bergamo": "EPYC-Genoa", "Siena": "EPYC-Genoa", "Turin": "EPYC-Turin"}
	model, ok := models[m.Product]
	switch {
	case !ok:
		return "", fmt.Errorf("product %q is not one of Milan, Genoa, Bergamo, Siena, Turin", m.Product)
	case m.VCPUType != "":
		return m.VCPUType, nil
	}
	return model, nil
}

// Override replaces every field of m that is set in o.
func (m *Manifest) Override(o *Manifest) {
	for _, p := range []struct{ to, from *string }{
		{&m.Kernel, &o.Kernel}, {&m.ModulesDir, &o.ModulesDir}, {&m.Guest, &o.Guest}, {&m.Config, &o.Config},
		{&m.Append, &o.Append}, {&m.Compress, &o.Compress}, {&m.SimDevice, &o.SimDevice}, {&m.Busybox, &o.Busybox},
		{&m.Firmware, &o.Firmware}, {&m.Verity, &o.Verity}, {&m.InstanceID, &o.InstanceID}, {&m.FirmwareDir, &o.FirmwareDir},
		{&m.UKIStub, &o.UKIStub}, {&m.VCPUType, &o.VCPUType}, {&m.Product, &o.Product}, {&m.VMM, &o.VMM},
	} {
		if *p.from != "" {
			*p.to = *p.from
		}
	}
	for _, p := range []struct{ to, from *[]string }{
		{&m.Modules, &o.Modules}, {&m.Applets, &o.Applets}, {&m.Certificates, &o.Certificates}, {&m.Microcode, &o.Microcode}, {&m.URoot, &o.URoot},
	} {
		if *p.from != nil {
			*p.to = *p.from
		}
	}
	if o.Files != nil {
		m.Files = o.Files
	}
	m.Debug = m.Debug || o.Debug
	m.Small = m.Small || o.Small
	m.UKI = m.UKI || o.UKI
	if o.VCPUs != 0 {
		m.VCPUs = o.VCPUs
	}
	if o.GuestFeatures != 0 {
		m.GuestFeatures = o.GuestFeatures
	}
}
