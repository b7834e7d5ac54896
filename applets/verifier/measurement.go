package verifier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/appraise"
	"attestbox/internal/appraise/amdroots"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
	"attestbox/internal/measure"
	"attestbox/internal/server"
	"attestbox/internal/wire"
)

// maxFirmware and maxCmdline bound what is read to measure; kernel and
// initramfs are hashed while they are read.
const (
	maxFirmware = 64 << 20
	maxCmdline  = 64 << 10
	maxRecord   = 16 << 20
)

// launchFlags say what is launched, for a digest that is computed here.
type launchFlags struct {
	images, digests              applet.Strings
	kernel, initrd, append, ovmf string
	vcpus                        int
	vcpuType, vmm                string
	guestFeatures                uint64

	uki                      bool
	idKey, imageID, familyID string
	minSVN                   uint64

	synthetic bool         // measurements computed a digest over the synthetic firmware
	stage1    bool         // an initramfs measured starts bundles
	brings    []wire.Hex32 // the ID that each initramfs measured brings; zeros for none
}

func (l *launchFlags) register(fs *applet.FlagSet) {
	fs.Var(&l.images, "image", "`DIR` that mkimage build wrote: its launch digest, computed again from its files; may be repeated")
	fs.BoolVar(&l.uki, "uki", false, "with -image: its linux.efi, started alone, in place of kernel, initramfs and command line")
	fs.Var(&l.digests, "measurement", "launch digest, 96 `HEX` digits; only together with -kernel, -initrd and -append, which show that it covers them")
	fs.StringVar(&l.kernel, "kernel", "", "kernel `FILE`")
	fs.StringVar(&l.initrd, "initrd", "", "initramfs `FILE`")
	fs.StringVar(&l.append, "append", "", "kernel command line")
	fs.StringVar(&l.ovmf, "ovmf", "", "firmware `FILE`; without it the synthetic one that mkimage and snp-sim use")
	fs.IntVar(&l.vcpus, "vcpus", 1, "number of vCPUs")
	fs.StringVar(&l.vcpuType, "vcpu-type", "EPYC-Milan", "vCPU type")
	fs.StringVar(&l.vmm, "vmm", "", "qemu (default), ec2, gce")
	fs.Uint64Var(&l.guestFeatures, "guest-features", 0, "SEV_FEATURES of the VMSA; 0 is the default of the VMM")
	fs.StringVar(&l.idKey, "id-key", "", "beside launch digests or in their place: whatever the owner of this ID key signed (mkimage id-block), its digest in 96 `HEX` digits")
	fs.StringVar(&l.imageID, "image-id", "", "with -id-key: its image, `ID` of at most 16 characters or 32 hex digits")
	fs.StringVar(&l.familyID, "family-id", "", "with -id-key: only of this family, `ID` of the same form")
	fs.Uint64Var(&l.minSVN, "min-svn", 0, "with -id-key: the least security version that may start, 1 or more")
}

// noDigest says that no launch digest is given.
func (l *launchFlags) noDigest() bool {
	return len(l.images)+len(l.digests) == 0 && l.kernel == "" && l.initrd == "" && l.append == "" && l.ovmf == ""
}

// identified says that an ID key may say what is launched.
func (l *launchFlags) identified() bool {
	return l.idKey != "" || l.imageID != "" || l.familyID != "" || l.minSVN != 0
}

// identities gives what -id-key and the flags beside it name: none or one.
func (l *launchFlags) identities() ([]appraise.Identity, error) {
	if !l.identified() {
		return nil, nil
	}
	if l.idKey == "" || l.imageID == "" || l.minSVN == 0 || l.minSVN > 1<<32-1 {
		return nil, applet.Usage("-id-key, -image-id and -min-svn (1 to 4294967295) need each other")
	}
	i := appraise.Identity{MinSVN: uint32(l.minSVN)}
	if err := i.IDKey.UnmarshalText([]byte(l.idKey)); err != nil {
		return nil, applet.Usage("-id-key: %v", err)
	}
	image, err := idblock.ParseID(l.imageID)
	if err != nil {
		return nil, applet.Usage("-image-id %.40q: want at most 16 characters, or 32 hex digits", l.imageID)
	}
	family, err := idblock.ParseID(l.familyID)
	if err != nil {
		return nil, applet.Usage("-family-id %.40q: want at most 16 characters, or 32 hex digits", l.familyID)
	}
	i.ImageID, i.FamilyID = image, family
	if err := i.Check(); err != nil {
		return nil, applet.Refused(code.MeasurementIncomplete, err)
	}
	return []appraise.Identity{i}, nil
}

func incomplete(format string, a ...any) error {
	return applet.WithHint(applet.Refused(code.MeasurementIncomplete, fmt.Errorf(format, a...)),
		"register an image folder with -image DIR, or give -kernel, -initrd, -append and -ovmf as they will be launched")
}

// measurements gives the launch digests to register. Each was computed here
// over kernel, initramfs and command line; there is no way around that.
func (l *launchFlags) measurements() ([]server.Measurement, error) {
	var out []server.Measurement
	if l.uki && len(l.images) == 0 {
		return nil, applet.Usage("-uki goes with -image")
	}
	for _, dir := range l.images {
		m, err := l.fromImage(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if len(l.digests) == 0 && l.kernel == "" && l.initrd == "" {
		if len(out) == 0 {
			return nil, incomplete("no launch digest")
		}
		return out, nil
	}
	want := map[string]bool{}
	for _, d := range l.digests {
		if b, err := hex.DecodeString(d); err != nil || len(b) != 48 {
			return nil, applet.Usage("-measurement %.100q is not 96 hex digits", d)
		}
		want[hexLower(d)] = true
	}
	if l.kernel == "" || l.initrd == "" {
		return nil, incomplete("a launch digest alone does not show that it covers kernel, initramfs and command line")
	}
	got, err := l.compute(measure.Config{VCPUs: l.vcpus, VCPUType: l.vcpuType, VMM: l.vmm, GuestFeatures: l.guestFeatures, Append: l.append}, l.kernel, l.initrd)
	if err != nil {
		return nil, err
	}
	if err := l.look(l.initrd); err != nil {
		return nil, err
	}
	for d := range want {
		if d != got {
			return nil, incomplete("the launch digest given is not that of the files given: computed %s, given %s", got, d)
		}
	}
	return append(out, server.Measurement{Digest: got, Source: fmt.Sprintf("computed from %s, %s and a command line of %d bytes", filepath.Base(l.kernel), filepath.Base(l.initrd), len(l.append))}), nil
}

// look refuses an initramfs with mkimage's mark of a debug image, whatever the
// record says, and notes the instance ID that it brings and whether it starts
// bundles. One that mkimage did not make is the owner's business, and does neither.
func (l *launchFlags) look(initrd string) error {
	l.brings = append(l.brings, wire.Hex32{})
	f, err := os.Open(initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() > image.MaxInitrd {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, image.MaxInitrd))
	if err != nil {
		return fmt.Errorf("reading %q: %w", initrd, err)
	}
	r, err := image.InspectInitrd(b)
	if err != nil {
		return nil
	}
	if r.Config != nil {
		l.brings[len(l.brings)-1] = r.Config.Instance()
		l.stage1 = l.stage1 || r.Config.Mode == config.Stage1
	}
	if r.Debug {
		return applet.Refused(code.MeasurementIncomplete, fmt.Errorf("initramfs %q has a debug shell and must never be trusted", initrd))
	}
	return nil
}

// unified is the digest of a launch of an image's linux.efi, which holds the
// folder's own kernel, initramfs and command line.
func (l *launchFlags) unified(dir, ovmf string) (none server.Measurement, err error) {
	var fw []byte
	if ovmf != "" {
		if fw, err = firmware(ovmf); err != nil {
			return none, err
		}
	}
	r, err := image.Claimable(dir, fw)
	if err != nil {
		return none, err
	}
	digest, err := r.ClaimableUKI()
	if err != nil {
		return none, err
	}
	return server.Measurement{Digest: digest, Source: "computed from " + image.UKIName + " of image " + filepath.Base(filepath.Clean(dir))}, nil
}

// checkSource refuses images that do not have the instance ID from where the
// instance's record says. zeros as id takes the one ID that the images bring.
func (l *launchFlags) checkSource(source string, id *wire.Hex32) error {
	for _, b := range l.brings {
		switch {
		case source != server.IDFromImage && !b.IsZero():
			return applet.WithHint(applet.Refused(code.InstanceSource, fmt.Errorf("an image brings the instance ID %s, and this instance has its from HOST_DATA", b)),
				"register the image's own instance: verifier add-instance -id-source image -image DIR")
		case source != server.IDFromImage:
		case b.IsZero():
			return applet.WithHint(applet.Refused(code.InstanceSource, errors.New("an image brings no instance ID")), "build it with: mkimage build -instance-id new")
		case id.IsZero():
			*id = b
		case b != *id:
			return applet.Refused(code.InstanceSource, fmt.Errorf("an image brings the instance ID %s, want %s", b, *id))
		}
	}
	return nil
}

// refuseSynthetic refuses a digest over the synthetic firmware where AMD's roots
// are trusted: that firmware has tables and no code, so it enforces no hash.
func (l *launchFlags) refuseSynthetic(ctx context.Context, st *server.State) error {
	if !l.synthetic {
		return nil
	}
	cfg, err := st.Config(ctx)
	if err != nil {
		return err
	}
	roots, _, err := server.Rules(cfg, amdroots.Load)
	if err != nil {
		return err
	}
	if roots.AMD() {
		return incomplete("the launch digest is that of the synthetic firmware, which is for the simulator, and this verifier trusts AMD's roots")
	}
	return nil
}

func hexLower(s string) string {
	b, _ := hex.DecodeString(s) // checked by the caller
	return hex.EncodeToString(b)
}

func (l *launchFlags) compute(cfg measure.Config, kernel, initrd string) (string, error) {
	var err error
	if cfg.Firmware, err = firmware(l.ovmf); err != nil {
		return "", err
	}
	l.synthetic = l.synthetic || synthetic(cfg.Firmware)
	return computeDigest(cfg, kernel, initrd)
}

func firmware(name string) ([]byte, error) {
	if name == "" {
		return measure.SyntheticFirmware(), nil
	}
	return applet.ReadFile(nil, name, maxFirmware)
}

// synthetic: the bytes tell, not whether a file was named.
func synthetic(firmware []byte) bool { return bytes.Equal(firmware, measure.SyntheticFirmware()) }

func computeDigest(cfg measure.Config, kernel, initrd string) (string, error) {
	var err error
	cfg.HasKernel = true
	if cfg.KernelHash, err = hashFile(kernel); err != nil {
		return "", err
	}
	if cfg.InitrdHash, err = hashFile(initrd); err != nil {
		return "", err
	}
	res, err := measure.SNP(cfg)
	if err != nil {
		return "", fmt.Errorf("computing the launch digest: %w", err)
	}
	if !res.Complete {
		return "", incomplete("the launch digest is incomplete: %s", res.Why)
	}
	return hex.EncodeToString(res.Digest[:]), nil
}

func hashFile(name string) (*[32]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	if n == 0 {
		return nil, fmt.Errorf("reading %q: it is empty", name)
	}
	return (*[32]byte)(h.Sum(nil)), nil
}

// fromImage computes the digest of an image folder from its files and compares
// it with what its record says. A record alone is not believed.
func (l *launchFlags) fromImage(dir string) (none server.Measurement, err error) {
	ovmf := l.ovmf
	if filepath.Base(dir) == "image.json" {
		dir = filepath.Dir(dir)
	}
	name := filepath.Join(dir, "image.json")
	b, err := applet.ReadFile(nil, name, maxRecord)
	if err != nil {
		return none, applet.WithHint(err, "make the folder with: mkimage build -out DIR ...")
	}
	// Not strict: the record is a newer or older mkimage's, and what counts is
	// computed from the files.
	var rec image.Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return none, fmt.Errorf("reading %q: %w", name, err)
	}
	m := rec.Measurement
	switch {
	case rec.Debug:
		return none, applet.Refused(code.MeasurementIncomplete, fmt.Errorf("image %q has a debug shell and must never be trusted", dir))
	case m == nil:
		return none, incomplete("image %q has no launch digest", dir)
	case !m.Complete:
		return none, incomplete("image %q: its launch digest is incomplete: %s", dir, m.Why)
	}
	cmdline, err := applet.ReadFile(nil, filepath.Join(dir, "cmdline"), maxCmdline)
	if err != nil {
		return none, err
	}
	cfg := measure.Config{VCPUs: m.VCPUs, VCPUType: m.VCPUType, VMM: m.VMM, GuestFeatures: m.GuestFeatures, Append: string(cmdline)}
	if !m.Synthetic && ovmf == "" {
		return none, incomplete("image %q was measured with a firmware file of SHA-256 %s: name it with -ovmf", dir, m.Firmware.SHA256)
	}
	if m.Synthetic {
		ovmf = ""
	}
	if cfg.Firmware, err = firmware(ovmf); err != nil {
		return none, err
	}
	l.synthetic = l.synthetic || synthetic(cfg.Firmware)
	initrd := filepath.Join(dir, image.InitrdName)
	got, err := computeDigest(cfg, filepath.Join(dir, image.KernelName), initrd)
	if err != nil {
		return none, err
	}
	if err := l.look(initrd); err != nil {
		return none, err
	}
	if l.uki {
		return l.unified(dir, ovmf)
	}
	if got != m.LaunchDigest {
		return none, applet.WithHint(incomplete("image %q: its files give the launch digest %s, its record says %s", dir, got, m.LaunchDigest), "build it again")
	}
	source := "computed from image " + filepath.Base(filepath.Clean(dir))
	if rec.Simulator {
		source += " (for the simulator)"
	}
	return server.Measurement{Digest: got, Source: source}, nil
}
