package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/image/disk"
	"attestbox/internal/wire"
)

// forVerity are the flags of mkimage disk that mean something with -verity.
var forVerity = map[string]bool{
	"verity": true, "from": true, "out": true, "size": true, "uuid": true, "salt": true, "record": true, "tmp": true, "force": true,
}

func checkVerityFlags(fs *applet.FlagSet, o *disk.Options, record, salt string) error {
	var other string
	fs.Visit(func(f *flag.Flag) {
		if !forVerity[f.Name] {
			other = f.Name
		}
	})
	switch {
	case other != "":
		return fs.Usage("-%s has no meaning with -verity: such a root is not encrypted and the same for every instance", other)
	case record == "":
		return fs.Usage("-record is required: without the root hash in the measured image nothing is checked")
	}
	if salt != "" {
		var s wire.Hex32
		if err := s.UnmarshalText([]byte(salt)); err != nil {
			return fs.Usage("-salt %.80q: want 64 lower-case hex digits", salt)
		}
		o.Salt = (*[32]byte)(&s)
	}
	return nil
}

func buildVerity(ctx context.Context, env *applet.Env, o disk.Options, record string) error {
	rec, err := disk.BuildVerity(ctx, o)
	if err != nil {
		return diskHint(err)
	}
	text, err := rec.Marshal()
	if err != nil {
		return err
	}
	if record == "-" {
		_, err = env.Stdout.Write(text)
	} else {
		err = renameio.WriteFile(record, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing verity record: %w", err)
	}
	fmt.Fprintf(env.Stderr, "%s: %s, %d blocks of data, hash tree at %d, root hash %s\n", env.Name, o.Out, rec.DataBlocks, rec.HashOffset, rec.RootHash)
	return nil
}
