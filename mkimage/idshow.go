package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
)

// showIDBlock reads an ID block back and verifies its signatures, and that it is
// for the image beside it.
func showIDBlock(env *applet.Env, fs *applet.FlagSet) error {
	blockFile, authFile, dir := fs.Arg(0), fs.Arg(1), ""
	switch fs.NArg() {
	case 1:
		dir = fs.Arg(0)
		blockFile, authFile = filepath.Join(dir, idBlockName), filepath.Join(dir, idAuthName)
	case 2:
	default:
		return fs.Usage("-show wants a folder, or the files of an ID block and of its authentication")
	}
	raw, err := applet.ReadFile(nil, blockFile, idblock.BlockSize+1)
	if err != nil {
		return err
	}
	rawAuth, err := applet.ReadFile(nil, authFile, idblock.AuthSize+1)
	if err != nil {
		return err
	}
	refuse := func(err error) error {
		return applet.WithHint(applet.Refused(code.IDBlock, err), "make both files again with mkimage id-block")
	}
	b, err := idblock.ParseBlock(raw)
	if err != nil {
		return refuse(fmt.Errorf("%q: %w", blockFile, err))
	}
	a, err := idblock.ParseAuth(rawAuth)
	if err != nil {
		return refuse(fmt.Errorf("%q: %w", authFile, err))
	}
	printIDBlock(env, b, a)
	if err := a.Verify(b); err != nil {
		return refuse(err)
	}
	if a.AuthorKey != nil {
		if err := a.VerifyAuthor(); err != nil {
			return refuse(err)
		}
	}
	if err := b.Check(); err != nil {
		return refuse(err)
	}
	if err := sameImage(dir, b); err != nil {
		return refuse(err)
	}
	fmt.Fprintf(env.Stderr, "%s: signatures verify\n", env.Name)
	return nil
}

func printIDBlock(env *applet.Env, b *idblock.Block, a *idblock.Auth) {
	w := env.Stdout
	fmt.Fprintf(w, "launch-digest %x\nfamily-id %s\nimage-id %s\nguest-svn %d\npolicy %v\n", b.LaunchDigest, idblock.ShowID(b.FamilyID), idblock.ShowID(b.ImageID), b.GuestSVN, b.Policy)
	printKeyDigests(env, a)
	author := ""
	if a.AuthorKey != nil {
		author = ",author-key-enabled=on"
	}
	fmt.Fprintf(w, "qemu id-block=%s,id-auth=%s%s\n", base64.StdEncoding.EncodeToString(b.Marshal()), base64.StdEncoding.EncodeToString(a.Marshal()), author)
}

// sameImage compares the block's digest with the record of the image in a
// folder, if there is one.
func sameImage(dir string, b *idblock.Block) error {
	if dir == "" {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, image.RecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var rec image.Record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return fmt.Errorf("reading %q: %w", image.RecordName, err)
	}
	if rec.Measurement == nil || rec.Measurement.LaunchDigest != hex.EncodeToString(b.LaunchDigest[:]) {
		return fmt.Errorf("the ID block is for another launch digest than that of the image in %q", dir)
	}
	return nil
}
