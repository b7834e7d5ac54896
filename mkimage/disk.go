package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/image/disk"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// diskKeySize is the size of the key that opens a disk: 256 bits of entropy.
const diskKeySize = 32

func runDisk(ctx context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("{-from DIR|TARBALL | -empty} -size 64M -out disk.img (-key FILE|- | -key-out FILE) [flags]\n"+
		"       mkimage disk -verity -from DIR|TARBALL -size 64M -out root.img -record root.json [flags]",
		"mkimage disk -from rootfs -size 64M -out disk.img -key-out /dev/shm/disk.key -record disk.json")
	var o disk.Options
	fs.StringVar(&o.From, "from", "", "folder or tarball (.tar, .tar.gz, .tar.zst) with the root file system")
	fs.BoolVar(&o.Empty, "empty", false, "an empty file system, for state")
	fs.StringVar(&o.Out, "out", "", "image to write")
	size := fs.String("size", "", "size of the whole image: bytes, or with K, M, G or T")
	keyIn := fs.String("key", "", "file with the disk's key, 32 random bytes as they are; - is stdin")
	keyOut := fs.String("key-out", "", "make a key and write it to this new file, on tmpfs only")
	fs.IntVar(&o.SectorSize, "sector-size", luks.DefaultSectorSize, "encryption sector: 512 or 4096 bytes")
	fs.StringVar(&o.Integrity, "integrity", luks.IntegrityHMAC, "authenticate every sector: "+luks.IntegrityHMAC)
	bare := fs.Bool("no-integrity", false, "bare XTS: the host can change what the guest reads; named in the record")
	fs.StringVar(&o.UUID, "uuid", "", "UUID of the LUKS2 header or of the hash tree (default random; with -verity from the source)")
	fs.StringVar(&o.Label, "label", "", "label of the LUKS2 header")
	header := fs.String("header-size", "1M", "offset of the data: room for headers and keyslots")
	record := fs.String("record", "", "write the header record (JSON), which the verifier registers, to this file; - is stdout")
	detached := fs.String("header", "", "write a detached copy of the header area to this file")
	instance := fs.String("instance", "", "write this instance `ID` into the volume: init opens it for no other")
	fs.StringVar(&o.TempDir, "tmp", "/dev/shm", "tmpfs folder in which a tarball is unpacked")
	force := fs.Bool("force", false, "replace an existing image")
	readOnly := fs.Bool("verity", false, "a read-only root in clear with its hash tree; -record writes what init.json needs to know of it")
	salt := fs.String("salt", "", "32 bytes in hex, `SALT` of the hash tree (default derived from the UUID)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	switch {
	case fs.NArg() != 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case (o.From == "") != o.Empty:
		return fs.Usage("one of -from and -empty is required")
	case o.Out == "" || *size == "":
		return fs.Usage("-size and -out are required")
	case *readOnly:
		if err := checkVerityFlags(fs, &o, *record, *salt); err != nil {
			return err
		}
	case *salt != "":
		return fs.Usage("-salt belongs to -verity")
	case (*keyIn == "") == (*keyOut == ""):
		return fs.Usage("one of -key and -key-out is required")
	}
	if err := chooseIntegrity(fs, &o, *bare); err != nil {
		return err
	}
	if o.Size, err = parseSize(*size); err != nil {
		return fs.Usage("-size: %v", err)
	}
	if o.HeaderArea, err = parseSize(*header); err != nil {
		return fs.Usage("-header-size: %v", err)
	}
	if o.UUID = strings.ToLower(o.UUID); o.UUID != "" && !luks.ValidUUID(o.UUID) {
		return fs.Usage("-uuid %q is malformed", o.UUID)
	}
	if *instance != "" {
		var id wire.Hex32
		if err := id.UnmarshalText([]byte(*instance)); err != nil || id.IsZero() {
			return fs.Usage("-instance %.80q: want 64 lower-case hex digits that are not all zeros", *instance)
		}
		o.Instance = (*[32]byte)(&id)
	}
	if o.Epoch, err = sourceDate(env); err != nil {
		return err
	}
	if st, err := os.Stat(o.Out); err == nil && (!*force || !st.Mode().IsRegular()) {
		return applet.WithHint(fmt.Errorf("%q exists", o.Out), "remove it, name another file, or replace a file with -force")
	}
	o.Progress = progressTo(env)
	if *readOnly {
		return buildVerity(ctx, env, o, *record)
	}
	key, err := diskKey(env, *keyIn, *keyOut)
	if err != nil {
		return err
	}
	defer key.Zero()
	res, err := disk.Build(ctx, key, o)
	if err != nil {
		if *keyOut != "" {
			os.Remove(*keyOut) // it opens nothing
		}
		return diskHint(err)
	}
	if err := writeRecords(env, res, *record, *detached); err != nil {
		return applet.WithHint(err, "the disk is written and its key opens it; unlock-luks record "+o.Out+" gives the record")
	}
	fmt.Fprintf(env.Stderr, "%s: %s, LUKS2 %s, data at %d, integrity %s, header digest %s\n",
		env.Name, o.Out, res.Record.UUID, res.Record.SegmentOffset, res.Record.Integrity, res.Record.Digest)
	return nil
}

// chooseIntegrity settles -integrity and -no-integrity.
func chooseIntegrity(fs *applet.FlagSet, o *disk.Options, bare bool) error {
	named := false
	fs.Visit(func(f *flag.Flag) { named = named || f.Name == "integrity" })
	switch {
	case bare && named:
		return fs.Usage("-integrity and -no-integrity exclude each other")
	case bare:
		o.Integrity = luks.IntegrityNone
	case o.Integrity == luks.IntegrityNone:
		return fs.Usage("-integrity none is written -no-integrity")
	case o.Integrity != luks.IntegrityHMAC:
		return fs.Usage("-integrity %q is not written; %s is", o.Integrity, luks.IntegrityHMAC)
	}
	return nil
}

// diskKey reads the key, or makes one and writes it before anything is
// encrypted with it. The caller wipes it.
func diskKey(env *applet.Env, in, out string) (*secret.Bytes, error) {
	if out != "" {
		if _, err := os.Lstat(out); err == nil {
			return nil, applet.WithHint(fmt.Errorf("%q exists; a key is never overwritten", out), "name a new file")
		}
		key := secret.Random(diskKeySize)
		if err := applet.CreateSecretFile(out, key); err != nil {
			key.Zero()
			return nil, err
		}
		return key, nil
	}
	r := env.Stdin
	if in != "-" {
		f, err := os.Open(in)
		if err != nil {
			return nil, fmt.Errorf("reading key: %w", err)
		}
		defer f.Close()
		r = f
	}
	key, err := secret.ReadAll(r, diskKeySize)
	if err == nil && key.Len() == diskKeySize {
		return key, nil
	}
	key.Zero()
	if err == nil || errors.Is(err, secret.ErrTooLong) {
		err = fmt.Errorf("want exactly %d bytes", diskKeySize)
	}
	return nil, applet.WithHint(fmt.Errorf("reading key: %w", err), "-key-out makes a key; head -c 32 /dev/urandom does as well")
}

func writeRecords(env *applet.Env, res *disk.Result, record, detached string) error {
	if detached != "" {
		if err := renameio.WriteFile(detached, res.Header, 0o644); err != nil {
			return fmt.Errorf("writing header: %w", err)
		}
	}
	text, err := json.MarshalIndent(res.Record, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	switch record {
	case "":
		return nil
	case "-":
		_, err = env.Stdout.Write(text)
	default:
		err = renameio.WriteFile(record, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing header record: %w", err)
	}
	return nil
}

// diskHint says what to do about errors that have a remedy.
func diskHint(err error) error {
	if _, ok := errors.AsType[*disk.ErrNoTool](err); ok {
		return applet.WithHint(err, "apt-get install e2fsprogs")
	}
	if errors.Is(err, disk.ErrSource) {
		return applet.Fail(code.Failed, err)
	}
	return err
}

// sourceDate is SOURCE_DATE_EPOCH, the zero time without it.
func sourceDate(env *applet.Env) (time.Time, error) {
	v := env.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, applet.Usage("SOURCE_DATE_EPOCH is %q, want seconds since 1970", v)
	}
	return time.Unix(n, 0), nil
}

// parseSize reads bytes with an optional binary unit.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	if i := strings.IndexAny(s, "KMGT"); i >= 0 && i == len(s)-1 {
		digits, shift = s[:i], 10*(1+strings.IndexByte("KMGT", s[i]))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no size; write 64M, 2G or bytes", s)
	}
	return n << shift, nil
}

// progressTo shows steps on a terminal and is silent elsewhere.
func progressTo(env *applet.Env) func(string, int64, int64) {
	if !isTerminal(env) {
		return nil
	}
	name, last := filepath.Base(env.Name), ""
	return func(step string, done, total int64) {
		line := fmt.Sprintf("\r%s: %s %3d%%", name, step, done*100/max(total, 1))
		if line != last {
			last = line
			fmt.Fprint(env.Stderr, line)
			if done == total {
				fmt.Fprintln(env.Stderr)
			}
		}
	}
}
