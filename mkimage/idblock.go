package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
	"attestbox/internal/snp"
	"attestbox/internal/strictjson"
)

// Names of what id-block writes, in the image's folder or -out.
const (
	idBlockName  = "id-block"
	idAuthName   = "id-auth"
	idRecordName = "id-block.json"
)

const idBlockExample = "mkimage id-block -image out/web -id-key /media/usb/id.key -image-id web -svn 3"

// idBlockFlags is the command line of `mkimage id-block`.
type idBlockFlags struct {
	image, measured, ovmf             string
	idKey, newIDKey                   string
	authorKey, newAuthorKey           string
	familyID, imageID, policy, folder string
	svn                               uint64
	show, simulator                   bool
}

// idBlockRecord is id-block.json: what was signed. It is information, not
// evidence.
type idBlockRecord struct {
	Format          int    `json:"format"` // 1
	LaunchDigest    string `json:"launch_digest"`
	Source          string `json:"source"` // what showed that the digest is complete
	FamilyID        string `json:"family_id"`
	ImageID         string `json:"image_id"`
	GuestSVN        uint32 `json:"guest_svn"`
	Policy          string `json:"policy"`
	IDKeyDigest     string `json:"id_key_digest"`
	AuthorKeyDigest string `json:"author_key_digest,omitempty"`
}

// runIDBlock is `mkimage id-block`: the owner's signature that an image of this
// launch digest is version SVN of IMAGE_ID. Only complete digests are signed:
// whoever trusts the ID key trusts this gate.
func runIDBlock(_ context.Context, env *applet.Env, args []string) error {
	var f idBlockFlags
	fs := env.Flags("{-image DIR | -measured FILE} {-id-key | -new-id-key} FILE -image-id ID -svn N [flags]\n"+
		"       mkimage id-block -show {DIR | ID-BLOCK ID-AUTH}", idBlockExample)
	fs.StringVar(&f.image, "image", "", "image `folder` of mkimage build: its launch digest, computed again from its files")
	fs.StringVar(&f.measured, "measured", "", "the launch digest in this `file` of mkimage measure -json; - is stdin")
	fs.StringVar(&f.ovmf, "ovmf", "", "the firmware `file` that the image was measured with")
	fs.StringVar(&f.idKey, "id-key", "", "ID key `file`: P-384, PEM; - is stdin")
	fs.StringVar(&f.newIDKey, "new-id-key", "", "make an ID key and write it to this new `file`, on tmpfs only")
	fs.StringVar(&f.authorKey, "author-key", "", "author key `file`, which signs the ID key; optional")
	fs.StringVar(&f.newAuthorKey, "new-author-key", "", "make an author key and write it to this new `file`, on tmpfs only")
	fs.StringVar(&f.familyID, "family-id", "", "FAMILY_ID: at most 16 characters, or 32 `hex` digits (default zeros)")
	fs.StringVar(&f.imageID, "image-id", "", "IMAGE_ID: the same form; required")
	fs.Uint64Var(&f.svn, "svn", 0, "GUEST_SVN: this image's security version, 1 or more; required")
	fs.StringVar(&f.policy, "policy", "0x30000", "guest policy of the launch in `hex`; DEBUG and MIGRATE_MA are refused")
	fs.StringVar(&f.folder, "out", "", "write into this `folder` (default: the image's)")
	fs.BoolVar(&f.simulator, "simulator", false, "sign a digest over the synthetic firmware, which only snp-sim starts: with a key that no verifier of hardware trusts")
	fs.BoolVar(&f.show, "show", false, "read an ID block and its authentication back, and verify them")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if f.show {
		return showIDBlock(env, fs)
	}
	b, err := f.parse(fs)
	if err != nil {
		return err
	}
	source, err := f.digest(env, b)
	if err != nil {
		return err
	}
	if err := b.Check(); err != nil {
		return applet.Refused(code.IDBlock, fmt.Errorf("signing an ID block: %w", err))
	}
	keys, err := f.keys(env)
	if err != nil {
		return err
	}
	a, err := idblock.Sign(b, keys.id, keys.author)
	if err != nil {
		return fmt.Errorf("signing an ID block: %w", err)
	}
	if err := f.write(b, a, source); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "%s: signed launch digest %x as %s, SVN %d\n", env.Name, b.LaunchDigest, idblock.ShowID(b.ImageID), b.GuestSVN)
	printKeyDigests(env, a)
	printImage(env, b, a)
	return nil
}

// parse makes a block of the flags; its digest is still missing.
func (f *idBlockFlags) parse(fs *applet.FlagSet) (*idblock.Block, error) {
	switch {
	case fs.NArg() > 0:
		return nil, fs.Usage("unexpected argument %q", fs.Arg(0))
	case (f.image == "") == (f.measured == ""):
		return nil, fs.Usage("one of -image and -measured is required")
	case (f.idKey == "") == (f.newIDKey == ""):
		return nil, fs.Usage("one of -id-key and -new-id-key is required")
	case f.authorKey != "" && f.newAuthorKey != "":
		return nil, fs.Usage("-author-key and -new-author-key exclude each other")
	case f.measured != "" && f.folder == "":
		return nil, fs.Usage("-measured needs -out")
	case f.svn == 0 || f.svn > 1<<32-1:
		return nil, fs.Usage("-svn %d, want 1 to 4294967295", f.svn)
	}
	b := &idblock.Block{GuestSVN: uint32(f.svn)}
	var err error
	if b.ImageID, err = idblock.ParseID(f.imageID); err != nil || f.imageID == "" {
		return nil, fs.Usage("-image-id %.40q: want 1 to 16 characters, or 32 hex digits", f.imageID)
	}
	if b.FamilyID, err = idblock.ParseID(f.familyID); err != nil {
		return nil, fs.Usage("-family-id %.40q: want at most 16 characters, or 32 hex digits", f.familyID)
	}
	policy, err := strconv.ParseUint(strings.TrimPrefix(f.policy, "0x"), 16, 64)
	if err != nil {
		return nil, fs.Usage("-policy %q is not a guest policy of 64 bits in hex", f.policy)
	}
	b.Policy = snp.GuestPolicy(policy)
	if f.folder == "" {
		if f.folder = f.image; filepath.Base(f.image) == image.RecordName {
			f.folder = filepath.Dir(f.image)
		}
	}
	return b, nil
}

// digest fills in the launch digest, which must be complete.
func (f *idBlockFlags) digest(env *applet.Env, b *idblock.Block) (source string, err error) {
	var text string
	var synthetic bool
	if f.image != "" {
		text, synthetic, err = imageDigest(f.image, f.ovmf)
		source = "computed from image " + imageName(f.image)
	} else {
		text, synthetic, err = measuredDigest(env, f.measured)
		source = "mkimage measure"
	}
	switch {
	case err != nil:
		return "", err
	case synthetic && !f.simulator:
		return "", errSynthetic("measure with the firmware that is launched, -ovmf FILE")
	case synthetic:
		source += " (for the simulator)"
	}
	if n, err := hex.Decode(b.LaunchDigest[:], []byte(text)); err != nil || n != len(b.LaunchDigest) {
		return "", fmt.Errorf("launch digest %.100q is not 96 hex digits", text)
	}
	return source, nil
}

// imageDigest computes the digest of an image folder from its files.
func imageDigest(dir, ovmf string) (digest string, synthetic bool, err error) {
	_, r, err := claimable(dir, ovmf)
	if err != nil {
		return "", false, err
	}
	return r.Digest, r.Synthetic(), nil
}

// measuredDigest reads a digest with what `mkimage measure` found of it.
func measuredDigest(env *applet.Env, name string) (digest string, synthetic bool, err error) {
	raw, err := applet.ReadFile(env, name, 64<<20)
	if err != nil {
		return "", false, err
	}
	var m measured
	if err := strictjson.Unmarshal(raw, &m); err != nil {
		return "", false, applet.WithHint(fmt.Errorf("reading %q: %w", name, err), "make it with: mkimage measure -json")
	}
	switch {
	case m.Mode != modeSNP:
		return "", false, applet.Refused(code.MeasurementIncomplete, fmt.Errorf("%q holds a digest of mode %.20q; an ID block is for %s", name, m.Mode, modeSNP))
	case !m.Complete:
		return "", false, applet.Refused(code.MeasurementIncomplete, fmt.Errorf("%q: the launch digest is incomplete: %.200s", name, m.Why))
	}
	return m.Digest, m.Firmware == syntheticName, nil
}

// write puts block, authentication and record into the folder, each atomically.
// A launch takes both files or neither verifies, so their order is no matter.
func (f *idBlockFlags) write(b *idblock.Block, a *idblock.Auth, source string) error {
	if err := os.MkdirAll(f.folder, 0o755); err != nil {
		return fmt.Errorf("writing an ID block: %w", err)
	}
	id := a.IDKey.Digest()
	rec := &idBlockRecord{Format: 1, LaunchDigest: hex.EncodeToString(b.LaunchDigest[:]), Source: source,
		FamilyID: hex.EncodeToString(b.FamilyID[:]), ImageID: hex.EncodeToString(b.ImageID[:]), GuestSVN: b.GuestSVN,
		Policy: fmt.Sprintf("0x%x", uint64(b.Policy)), IDKeyDigest: hex.EncodeToString(id[:])}
	if a.AuthorKey != nil {
		author := a.AuthorKey.Digest()
		rec.AuthorKeyDigest = hex.EncodeToString(author[:])
	}
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{idBlockName, b.Marshal()}, {idAuthName, a.Marshal()}, {idRecordName, append(text, '\n')}} {
		if err := renameio.WriteFile(filepath.Join(f.folder, file.name), file.data, 0o644); err != nil {
			return fmt.Errorf("writing an ID block: %w", err)
		}
	}
	return nil
}

// printImage prints what a policy may say of this version and later ones.
func printImage(env *applet.Env, b *idblock.Block, a *idblock.Auth) {
	key := a.IDKey.Digest()
	i := claim.Image{IDKey: hex.EncodeToString(key[:]), ImageID: hex.EncodeToString(b.ImageID[:]), MinSVN: b.GuestSVN}
	if b.FamilyID != [16]byte{} {
		i.FamilyID = hex.EncodeToString(b.FamilyID[:])
	}
	fmt.Fprintf(env.Stdout, "image %s\n", i)
}

// printKeyDigests prints what policy names keys by.
func printKeyDigests(env *applet.Env, a *idblock.Auth) {
	fmt.Fprintf(env.Stdout, "id-key-digest %x\n", a.IDKey.Digest())
	if a.AuthorKey != nil {
		fmt.Fprintf(env.Stdout, "author-key-digest %x\n", a.AuthorKey.Digest())
	}
}
