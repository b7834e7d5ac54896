package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/measure"
	"attestbox/internal/measure/igvm"
)

// igvmFlags are those that go with -igvm. The file is the whole launch.
var igvmFlags = []string{"igvm", "mode", "vmm", "vmm-type", "json", "explain", "output-format", "against"}

// measuredIGVM is the answer for an IGVM file, as -json prints it.
type measuredIGVM struct {
	Mode          string          `json:"mode"`
	Digest        string          `json:"digest"` // hex
	Complete      bool            `json:"complete"`
	Why           string          `json:"why,omitempty"`
	IGVM          string          `json:"igvm"` // path
	SHA256        string          `json:"igvm_sha256"`
	Version       uint32          `json:"igvm_version"`
	Platforms     []string        `json:"platforms"`
	HighestVTL    uint8           `json:"highest_vtl"`
	SharedGPA     string          `json:"shared_gpa_boundary,omitempty"`
	VCPUs         int             `json:"vcpus"` // contexts in the file
	GuestFeatures string          `json:"guest_features,omitempty"`
	Policy        string          `json:"guest_policy,omitempty"`
	PolicyText    string          `json:"guest_policy_text,omitempty"`
	IDBlock       *measuredIDFile `json:"id_block,omitempty"`
	Notes         []string        `json:"notes,omitempty"`
	Steps         []measuredStep  `json:"steps,omitempty"` // with -explain

	Against *measuredAgainst `json:"against,omitempty"`
}

// measuredIDFile is the ID block of an IGVM file.
type measuredIDFile struct {
	Digest          string `json:"launch_digest"`
	Matches         bool   `json:"matches"` // that digest is the file's
	FamilyID        string `json:"family_id"`
	ImageID         string `json:"image_id"`
	GuestSVN        uint32 `json:"guest_svn"`
	IDKeyDigest     string `json:"id_key_digest,omitempty"`
	AuthorKeyDigest string `json:"author_key_digest,omitempty"`
	Problem         string `json:"problem,omitempty"` // why the secure processor will refuse it
}

// runIGVM is `mkimage measure -igvm`.
func (f *measureFlags) runIGVM(env *applet.Env, fs *applet.FlagSet) error {
	for _, name := range slices.Sorted(maps.Keys(f.given)) {
		if !slices.Contains(igvmFlags, name) {
			return fs.Usage("-%s does not enter the digest of an IGVM file", name)
		}
	}
	switch {
	case modes[strings.ToLower(f.mode)] != modeSNP:
		return fs.Usage("-igvm is for -mode snp")
	case strings.ToLower(f.vmm) != measure.QEMU:
		return fs.Usage("-igvm: what %s does with such files is not known", f.vmm)
	case f.format != "hex" && f.format != "base64":
		return fs.Usage("unknown -output-format %q", f.format)
	}
	var report *reported
	if f.against != "" {
		var err error
		if report, err = readReported(env, f.against); err != nil {
			return err
		}
	}
	data, err := readBounded(f.igvm)
	if err != nil {
		return err
	}
	file, err := igvm.Parse(data)
	if err != nil {
		return explainIGVM(err)
	}
	r, err := measure.IGVM(file)
	if err != nil {
		return explainIGVM(err)
	}
	out := describeIGVM(file, r)
	sum := sha256.Sum256(data)
	out.IGVM, out.SHA256 = f.igvm, hex.EncodeToString(sum[:])
	if report != nil {
		found, err := measure.IGVMAgainst(file, report.digest)
		if err != nil {
			return err
		}
		out.Against = report.found(found)
	}
	return f.printIGVM(env, out)
}

func explainIGVM(err error) error {
	if errors.Is(err, igvm.ErrFile) || errors.Is(err, measure.ErrIGVM) {
		return applet.WithHint(applet.Refused(code.MeasureIGVM, err), "an IGVM file for QEMU and SEV-SNP is what coconut-svsm builds, for example")
	}
	return err
}

func describeIGVM(file *igvm.File, r *measure.IGVMResult) *measuredIGVM {
	out := &measuredIGVM{Mode: "igvm", Digest: hex.EncodeToString(r.Digest[:]), Complete: r.Complete, Why: r.Why, Version: file.Version,
		HighestVTL: r.Supported.HighestVTL, Notes: r.Notes, Steps: measuredSteps(r.Steps)}
	for _, p := range file.Platforms {
		out.Platforms = append(out.Platforms, p.Platform.String())
	}
	if r.Supported.SharedGPA != 0 {
		out.SharedGPA = fmt.Sprintf("%#x", r.Supported.SharedGPA)
	}
	if r.GuestFeatures != 0 {
		out.GuestFeatures = fmt.Sprintf("%#x", r.GuestFeatures)
	}
	policy, known := file.Policy(r.Supported)
	if known {
		out.Policy, out.PolicyText = fmt.Sprintf("%#x", uint64(policy)), policy.String()
	}
	for _, h := range file.For(r.Supported) {
		switch h.Type {
		case igvm.TypeVPContext:
			out.VCPUs++
		case igvm.TypeIDBlock:
			out.IDBlock = describeIDFile(h.IDBlock, uint64(policy), r.Digest)
		}
	}
	return out
}

// describeIDFile says what an ID block allows, and what the secure processor will
// find wrong with it.
func describeIDFile(b *igvm.IDBlock, policy uint64, digest [48]byte) *measuredIDFile {
	ld, family, image := b.Digest(), b.FamilyID(), b.ImageID()
	out := &measuredIDFile{Digest: hex.EncodeToString(ld[:]), Matches: ld == digest, GuestSVN: b.GuestSVN(),
		FamilyID: hex.EncodeToString(family[:]), ImageID: hex.EncodeToString(image[:])}
	block, auth, err := b.Launch(policy)
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	key := auth.IDKey.Digest()
	out.IDKeyDigest = hex.EncodeToString(key[:])
	if auth.AuthorKey != nil {
		author := auth.AuthorKey.Digest()
		out.AuthorKeyDigest = hex.EncodeToString(author[:])
		if err := auth.VerifyAuthor(); err != nil {
			out.Problem = err.Error()
		}
	}
	if err := auth.Verify(block); err != nil {
		out.Problem = err.Error()
	}
	if !out.Matches {
		out.Problem = "it allows another launch digest"
	}
	return out
}

// printIGVM writes the answer. What of the file is not in the digest goes to stderr.
func (f *measureFlags) printIGVM(env *applet.Env, out *measuredIGVM) error {
	warnIncomplete(env, out.Complete, out.Why)
	for _, n := range out.Notes {
		fmt.Fprintf(env.Stderr, "%s: note: %s; QEMU with KVM will report another digest\n", env.Name, n)
	}
	if b := out.IDBlock; b != nil && b.Problem != "" {
		fmt.Fprintf(env.Stderr, "%s: warning: the ID block: %s; the secure processor will not launch this\n", env.Name, b.Problem)
	}
	if !f.json {
		if f.explain {
			explainSteps(env.Stderr, out.Steps)
		}
		out.facts(env.Stderr)
	}
	if !f.explain {
		out.Steps = nil
	}
	return f.answer(env, out, out.Digest, out.Against)
}

// facts are the guest policy and the ID block.
func (out *measuredIGVM) facts(w io.Writer) {
	policy := "none in the file: the host chooses it"
	if out.Policy != "" {
		policy = out.Policy + " (" + out.PolicyText + ")"
	}
	fmt.Fprintf(w, "guest policy: %s\n", policy)
	b := out.IDBlock
	if b == nil {
		fmt.Fprintln(w, "ID block: none")
		return
	}
	fmt.Fprintf(w, "ID block: image ID %s, family ID %s, guest SVN %d, launch digest %s\n", b.ImageID, b.FamilyID, b.GuestSVN, b.Digest)
	if b.IDKeyDigest != "" {
		fmt.Fprintf(w, "  ID key digest     %s\n", b.IDKeyDigest)
	}
	if b.AuthorKeyDigest != "" {
		fmt.Fprintf(w, "  author key digest %s\n", b.AuthorKeyDigest)
	}
}
