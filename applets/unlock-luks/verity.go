package unlockluks

import (
	"context"
	"fmt"
	"io"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/unlock"
	"attestbox/internal/verity"
)

// openVerity maps a read-only device with a hash tree. All that the kernel is
// told is given here; the superblock on the device is not read.
func openVerity(ctx context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("{-record FILE | -root-hash HEX -salt HEX -data-blocks N -hash-offset BYTES} DEVICE NAME",
		"unlock-luks verity -record /etc/attestbox/usr.json /dev/vdb usr && mount -o ro /dev/mapper/usr /usr")
	file := fs.String("record", "", "verity record (JSON) of mkimage disk -verity")
	var given verity.Record
	fs.TextVar(&given.RootHash, "root-hash", &given.RootHash, "root hash, 64 hex digits (required without -record)")
	fs.TextVar(&given.Salt, "salt", &given.Salt, "salt, 64 hex digits (required without -record)")
	fs.Uint64Var(&given.DataBlocks, "data-blocks", 0, "blocks of 4096 bytes of data (required without -record)")
	fs.Uint64Var(&given.HashOffset, "hash-offset", 0, "where superblock and tree begin, as veritysetup's --hash-offset (required without -record)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	empty := given == verity.Record{}
	switch {
	case fs.NArg() != 2:
		return fs.Usage("a device and a name are required")
	case !dm.ValidName(fs.Arg(1)):
		return fs.Usage("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", fs.Arg(1))
	case (*file == "") == empty:
		return fs.Usage("one of -record and the four values is required")
	case *file == "" && given.Check() != nil:
		return fs.Usage("%v", given.Check())
	}
	rec := &given
	if *file != "" {
		var err error
		if rec, err = readVerity(*file); err != nil {
			return err
		}
	}
	m, err := unlock.Verity(ctx, fs.Arg(0), fs.Arg(1), rec)
	if err != nil {
		c, _ := code.Of(err)
		switch {
		case unlock.IsRefusal(err):
			return applet.Refused(c, err)
		case c == code.DMUnavailable:
			return applet.WithHint(applet.Fail(c, err), "load dm-mod and dm-verity, and run as root")
		}
		return err
	}
	fmt.Fprintln(env.Stdout, m.Node)
	return nil
}

func readVerity(name string) (*verity.Record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading verity record: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, fmt.Errorf("reading verity record: %w", err)
	}
	rec, err := verity.Parse(text)
	if err != nil {
		return nil, applet.Refused(code.VerityRecord, fmt.Errorf("reading verity record %q: %w", name, err))
	}
	return rec, nil
}
