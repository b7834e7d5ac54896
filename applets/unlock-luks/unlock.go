// Package unlockluks is the applet unlock-luks: it opens an encrypted disk with
// a key from a descriptor and the header record that came with the key, and
// reports offline which rules a header keeps.
package unlockluks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/dm"
	"attestbox/internal/luks"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/unlock"
	"attestbox/internal/wire"
)

// Applet is unlock-luks.
var Applet = applet.Applet{
	Name:    "unlock-luks",
	Summary: "open a LUKS2 disk whose header is the registered one; check, record, change headers",
	Run:     run,
}

// maxKey bounds what is read as a key, maxRecord what is read as a record.
const (
	maxKey    = 4096
	maxRecord = 64 << 10
)

func run(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) > 0 {
		sub := *env
		switch args[0] {
		case "check":
			sub.Name += " check"
			return check(&sub, args[1:])
		case "record":
			sub.Name += " record"
			return record(&sub, args[1:])
		case "register":
			sub.Name += " register"
			return register(ctx, &sub, args[1:], sevguest.Open)
		case "rotate":
			sub.Name += " rotate"
			return rotate(ctx, &sub, args[1:], sevguest.Open)
		case "enroll":
			sub.Name += " enroll"
			return enroll(ctx, &sub, args[1:], sevguest.Open)
		case "create":
			sub.Name += " create"
			return createVolume(ctx, &sub, args[1:])
		case "open":
			sub.Name += " open"
			return openVolume(ctx, &sub, args[1:])
		case "test":
			sub.Name += " test"
			return try(&sub, args[1:])
		case "verity":
			sub.Name += " verity"
			return openVerity(ctx, &sub, args[1:])
		}
	}
	return open(ctx, env, args)
}

func open(ctx context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("-record FILE [-key-fd N] DEVICE NAME\n       unlock-luks check [-record FILE] FILE\n       unlock-luks record FILE\n       unlock-luks verity -record FILE DEVICE NAME\n       unlock-luks test -record FILE [-key-fd N] FILE\n       unlock-luks create|open -tag TAG [flags] DEVICE NAME\n       unlock-luks register|rotate|enroll ... (each takes -h)",
		"unlock-luks -record /run/disk.json /dev/vda root < /run/disk.key")
	recordFile := fs.String("record", "", "header record (JSON) as registered with the verifier")
	fd := fs.Int("key-fd", 0, "descriptor from which the key is read to its end; 0 is stdin")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 2 || *recordFile == "" {
		return fs.Usage("-record, a device and a name are required")
	}
	if *fd < 0 || *fd == 1 || *fd == 2 {
		return fs.Usage("-key-fd %d is no descriptor to read a key from", *fd)
	}
	if !dm.ValidName(fs.Arg(1)) {
		return fs.Usage("mapping name %q is not 1 to 64 of a-z, A-Z, 0-9, . _ + -", fs.Arg(1))
	}
	rec, err := readRecord(*recordFile)
	if err != nil {
		return err
	}
	key, err := readKey(env, *fd)
	if err != nil {
		return err
	}
	defer key.Zero() // Unlock wipes it too
	res, err := unlock.Unlock(ctx, fs.Arg(0), fs.Arg(1), rec, key)
	if err != nil {
		return classify(err)
	}
	fmt.Fprintln(env.Stdout, res.Node)
	return nil
}

func readKey(env *applet.Env, fd int) (*secret.Bytes, error) {
	r := env.Stdin
	if fd != 0 {
		f := os.NewFile(uintptr(fd), "key")
		if f == nil {
			return nil, applet.Usage("-key-fd %d is no descriptor", fd)
		}
		defer f.Close()
		r = f
	}
	key, err := secret.ReadAll(r, maxKey)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	if key.Len() == 0 {
		return nil, applet.WithHint(errors.New("reading key: it is empty"), "pipe the key's bytes to stdin or name a descriptor with -key-fd")
	}
	return key, nil
}

// readRecord reads a header record; luks checks what it asks for.
func readRecord(name string) (*wire.HeaderRecord, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading header record: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, fmt.Errorf("reading header record: %w", err)
	}
	rec := new(wire.HeaderRecord)
	if len(text) > maxRecord {
		err = errors.New("file is too large")
	} else {
		err = strictjson.Unmarshal(text, rec)
	}
	if err == nil {
		err = luks.CheckRecord(rec)
	}
	if err != nil {
		return nil, applet.Refused(code.LUKSRecord, fmt.Errorf("reading header record %q: %w", name, err))
	}
	return rec, nil
}

// classify gives exit codes and hints.
func classify(err error) error {
	c, _ := code.Of(err)
	switch {
	case c == code.LUKSHeaderDigest:
		return applet.WithHint(applet.Refused(c, err), "if the header was changed on purpose, register its new record; see unlock-luks record")
	case unlock.IsRefusal(err):
		return applet.Refused(c, err)
	case c == code.DMUnavailable:
		return applet.WithHint(applet.Fail(c, err), "load dm-mod, dm-crypt, xts and ecb, with integrity dm-integrity and authenc, and run as root")
	}
	return err
}

func check(env *applet.Env, args []string) error {
	fs := env.Flags("[-record FILE] FILE", "unlock-luks check -record disk.json disk.img")
	recordFile := fs.String("record", "", "compare with this header record as well")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fs.Usage("one file or device is required")
	}
	var rec *wire.HeaderRecord
	var err error
	if *recordFile != "" {
		if rec, err = readRecord(*recordFile); err != nil {
			return err
		}
	}
	header, err := readHeader(fs.Arg(0))
	if err != nil {
		return err
	}
	results, ok := luks.Check(header, rec, luks.Limits{})
	var first *luks.Result
	for i := range results {
		r := &results[i]
		switch {
		case !r.Reached:
			fmt.Fprintf(env.Stdout, "skip  %-20s %s\n", r.Code, r.Rule)
		case r.Err != nil:
			fmt.Fprintf(env.Stdout, "FAIL  %-20s %s: %v\n", r.Code, r.Rule, r.Err)
			if first == nil {
				first = r
			}
		default:
			fmt.Fprintf(env.Stdout, "pass  %-20s %s\n", r.Code, r.Rule)
		}
	}
	if !ok {
		return applet.Refused(first.Code, fmt.Errorf("header of %q breaks a rule", fs.Arg(0)))
	}
	return checkSuperblock(env, fs.Arg(0), header)
}

func record(env *applet.Env, args []string) error {
	fs := env.Flags("FILE", "unlock-luks record disk.img > disk.json")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fs.Usage("one file or device is required")
	}
	header, err := readHeader(fs.Arg(0))
	if err != nil {
		return err
	}
	rec, err := luks.RecordOf(header)
	if err != nil {
		return applet.WithHint(classify(fmt.Errorf("header of %q: %w", fs.Arg(0), err)), "unlock-luks check lists every rule")
	}
	return printRecord(env, rec)
}

func readHeader(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading header: %w", err)
	}
	defer f.Close()
	return luks.ReadHeader(f)
}
