package image

import (
	"fmt"
	"strconv"
	"strings"

	"attestbox/initramfs/config"
)

// Stage1 is what a stage-1 image starts (docs/bundle.md).
type Stage1 struct {
	Name       string `json:"name"`
	Key        string `json:"key"` // the owner's bundle key, hex
	MinVersion uint64 `json:"min_version"`
}

// An SNP guest can kexec from 6.13 on: commit 3074152e56c9 ("x86/sev: Convert
// shared memory back to private on kexec") came with the pull request "x86/sev
// for v6.13". 6.15 takes the other vCPUs' VMSA pages back as well (d2062cc1b1c3),
// and accepts the memory that the next kernel is loaded into (see eagerMemory).
const (
	minKexec  = "6.13"
	goodKexec = "6.15"
)

// stage1Required are the modules of a stage 1 that every kernel has, in place of
// defaultRequired: it opens no encrypted disk.
var (
	stage1Required = []string{"virtio_pci", "virtio_blk"}
	stage1Optional = []string{"virtio_net", "vsock", "vmw_vsock_virtio_transport", "tsm", "tsm_report", "sev-guest"}
)

// checkStage1 refuses a stage 1 that could not start a bundle, and records what
// it starts. Nothing is said of other images.
func (b *builder) checkStage1() error {
	if b.cfg.Mode != config.Stage1 {
		return nil
	}
	b.rec.Stage1 = stage1Of(b.cfg)
	switch {
	case atLeast(b.release, goodKexec):
	case atLeast(b.release, minKexec):
		b.note(fmt.Sprintf("stage 1: kernel %s leaves pages of other vCPUs behind when it starts the bundle: real SNP with several vCPUs needs %s or later", short(b.release), goodKexec))
	case b.m.SimDevice != "":
		b.rec.SNPHardware = false
		b.note(fmt.Sprintf("stage 1: kernel %s cannot start another one in an SNP guest: for the simulator only; real SNP needs %s or later", short(b.release), minKexec))
	default:
		return fmt.Errorf("%w: stage 1: kernel %s cannot start another one in an SNP guest, %s and later can (-sim-device makes an image for the simulator)", ErrRefused, short(b.release), minKexec)
	}
	return nil
}

func stage1Of(c *config.Config) *Stage1 {
	return &Stage1{Name: c.Bundle.Name, Key: c.Bundle.Key.String(), MinVersion: c.Bundle.MinVersion}
}

func short(release string) string {
	s, _, _ := strings.Cut(release, "-")
	return s
}

// atLeast compares major and minor number of a kernel release; a release that
// has none is older than everything.
func atLeast(release, want string) bool {
	a, aok := majorMinor(release)
	b, bok := majorMinor(want)
	return aok && bok && (a[0] > b[0] || a[0] == b[0] && a[1] >= b[1])
}

func majorMinor(s string) (v [2]int, ok bool) {
	major, rest, _ := strings.Cut(s, ".")
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		rest = rest[:i]
	}
	var err1, err2 error
	v[0], err1 = strconv.Atoi(major)
	v[1], err2 = strconv.Atoi(rest)
	return v, err1 == nil && err2 == nil && v[0] >= 0
}
