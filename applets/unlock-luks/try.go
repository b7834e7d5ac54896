package unlockluks

import (
	"fmt"

	"attestbox/internal/applet"
	"attestbox/internal/unlock"
)

// try says whether a key and a record open a disk, without device-mapper.
func try(env *applet.Env, args []string) error {
	fs := env.Flags("-record FILE [-key-fd N] FILE", "unlock-luks test -record disk.json disk.img < disk.key")
	recordFile := fs.String("record", "", "header record (JSON) as registered with the verifier")
	fd := fs.Int("key-fd", 0, "descriptor from which the key is read to its end; 0 is stdin")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 || *recordFile == "" {
		return fs.Usage("-record and one file or device are required")
	}
	if *fd < 0 || *fd == 1 || *fd == 2 {
		return fs.Usage("-key-fd %d is no descriptor to read a key from", *fd)
	}
	rec, err := readRecord(*recordFile)
	if err != nil {
		return err
	}
	key, err := readKey(env, *fd)
	if err != nil {
		return err
	}
	defer key.Zero() // Try wipes it too
	if err := unlock.Try(fs.Arg(0), rec, key); err != nil {
		return classify(err)
	}
	_, err = fmt.Fprintln(env.Stdout, "key and record open it")
	return err
}
