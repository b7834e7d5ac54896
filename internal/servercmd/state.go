// Package servercmd is what the applets verifier, server, policy-server and
// key-server share: the state folder, its flags, and the running server. Glue and
// flags; the work is in internal/server.
package servercmd

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/snp"
	"attestbox/internal/store"
	"attestbox/internal/store/bolt"
	"attestbox/internal/store/relay"
	"attestbox/internal/store/sealed"
)

// Names in the state folder; see docs/verifier.md.
const (
	DBFile        = "state.db"
	DecisionsFile = "decisions.jsonl"
	SocketFile    = "admin.sock"
	// AuditDir is the folder of the audit log.
	AuditDir = "audit"
	// KDSDir is the folder of certificates and revocation lists; nothing in it
	// is secret or trusted.
	KDSDir = "kds"
)

// KnownChip says whether the folder of certificates has any of a chip.
func KnownChip(dir string, product snp.Product, chip [64]byte) bool {
	id := hex.EncodeToString(chip[:product.ChipIDSize()])
	found, err := filepath.Glob(filepath.Join(dir, string(product), "vcek-"+id+"-*.der"))
	return err == nil && len(found) > 0
}

// CreateState makes a state folder around fill. What a failure leaves is
// removed, so that the next attempt finds an empty folder.
func CreateState(ctx context.Context, dir string, fill func(store.Store) (*server.State, error)) (*server.State, error) {
	if err := NewDir(dir); err != nil {
		return nil, err
	}
	raw, err := OpenBolt(dir)
	if err != nil {
		return nil, err
	}
	st, err := fill(raw)
	if err != nil {
		raw.Close()
		os.Remove(filepath.Join(dir, DBFile))
		return nil, err
	}
	return st, nil
}

// PrintJSON prints v, indented.
func PrintJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// StateFlags are the flags of every command that opens the state.
type StateFlags struct {
	Dir, KeyFile, PassFile string
	Platform, PlatformKey  string // see platform.go

	snp func() (platform.Platform, error) // sevguest.Open if nil
}

// Register adds the flags.
func (f *StateFlags) Register(fs *applet.FlagSet) {
	fs.StringVar(&f.Dir, "state", "", "state `DIR` of the verifier, mode 0700")
	fs.StringVar(&f.KeyFile, "seal-key", "", "`FILE` of 32 or more random bytes that seals the state; not in the state folder")
	fs.StringVar(&f.PassFile, "seal-passphrase", "", "`FILE` with a passphrase instead; - is stdin")
	f.registerPlatform(fs)
}

// Check refuses what the flags lack.
func (f *StateFlags) Check(fs *applet.FlagSet) error {
	switch {
	case f.Dir == "":
		return fs.Usage("-state is missing")
	case f.KeyFile == "" && f.PassFile == "" && f.Platform == "":
		return fs.Usage("-seal-key (or -seal-passphrase, or -seal-platform) is missing")
	case f.KeyFile != "" && f.PassFile != "", f.Platform != "" && (f.KeyFile != "" || f.PassFile != ""):
		return fs.Usage("-seal-key, -seal-passphrase and -seal-platform exclude each other")
	}
	return f.checkPlatform(fs)
}

// Key reads the seal key; the caller zeroes it with ZeroKey. A key inside the
// state folder is refused: whoever copies the folder would have it too. So is
// one that every user may read.
func (f *StateFlags) Key(env *applet.Env) (sealed.Key, error) {
	if f.Platform != "" {
		return f.platformKey()
	}
	name, max := f.KeyFile, sealed.MaxFileKey
	if name == "" {
		name = f.PassFile
	}
	if name != "-" {
		if err := outside(f.Dir, name); err != nil {
			return sealed.Key{}, err
		}
		if err := f.checkReaders(env, name); err != nil {
			return sealed.Key{}, err
		}
	}
	b, err := applet.ReadSecret(env, name, max)
	if err != nil {
		return sealed.Key{}, fmt.Errorf("reading the seal key: %w", err)
	}
	if f.KeyFile != "" {
		if err := sealed.CheckFileKey(b); err != nil {
			b.Zero()
			return sealed.Key{}, applet.WithHint(applet.Refused(code.SealKey, fmt.Errorf("reading the seal key %q: %w", name, err)),
				"make one with: head -c 32 /dev/urandom > FILE; a passphrase goes with -seal-passphrase")
		}
		return sealed.Key{File: b}, nil
	}
	defer b.Zero()
	return sealed.Key{Passphrase: secret.Copy(bytes.TrimRight(b.Bytes(), "\r\n"))}, nil
}

// ZeroKey wipes a seal key.
func ZeroKey(k sealed.Key) { k.File.Zero(); k.Passphrase.Zero() }

// outside refuses a file that lies in dir, by its real path or by being the
// same file as one in there.
func outside(dir, file string) error {
	refuse := func() error {
		return applet.WithHint(applet.Refused(code.SealKey, fmt.Errorf("the seal key %q lies in the state folder: a copy of the folder would open itself", file)),
			"keep it elsewhere, for example as a systemd credential")
	}
	in, err := Lies(dir, file)
	if err != nil {
		return fmt.Errorf("reading the seal key: %w", err)
	}
	if in {
		return refuse()
	}
	// A hard link has no real path.
	want, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("reading the seal key: %w", err)
	}
	return filepath.WalkDir(dir+"/.", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no state yet, or a file that a running server removed
		}
		if err != nil {
			return err
		}
		if st, err := os.Stat(path); err == nil && os.SameFile(st, want) {
			return refuse()
		}
		return nil
	})
}

// Lies says whether path, which exists, is dir or something in it, by their real
// paths. A dir that does not exist holds nothing.
func Lies(dir, path string) (bool, error) {
	path, err := realPath(path)
	if err != nil {
		return false, err
	}
	if dir, err = realPath(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../"), nil
}

func realPath(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// NewDir makes the folder of a new state; one that holds something is refused.
func NewDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the state folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	if len(entries) > 0 {
		return applet.WithHint(fmt.Errorf("the state folder %q is not empty, and nothing in it was touched", dir), "name a folder that does not exist yet")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	return nil
}

// CheckDir refuses a folder that is no state, or that others can read.
func CheckDir(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = errors.New("not a folder")
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, DBFile))
	}
	if err != nil {
		return applet.WithHint(fmt.Errorf("opening the state %q: %w", dir, err), "make one with: verifier init -state DIR -seal-key FILE")
	}
	if st.Mode().Perm()&0o077 != 0 {
		return applet.WithHint(fmt.Errorf("opening the state %q: mode %04o lets others in", dir, st.Mode().Perm()), "chmod 700 "+dir)
	}
	return nil
}

// Open opens the state, through the running server if there is one.
func (f *StateFlags) Open(ctx context.Context, env *applet.Env) (*server.State, error) {
	return f.OpenBy(ctx, env, func() (store.Store, error) {
		if s, err := relay.Dial(ctx, filepath.Join(f.Dir, SocketFile)); err == nil {
			return s, nil
		}
		return OpenBolt(f.Dir)
	})
}

// OpenBy opens the state over the store that raw gives.
func (f *StateFlags) OpenBy(ctx context.Context, env *applet.Env, raw func() (store.Store, error)) (*server.State, error) {
	if err := CheckDir(f.Dir); err != nil {
		return nil, err
	}
	key, err := f.Key(env)
	if err != nil {
		return nil, err
	}
	defer ZeroKey(key)
	r, err := raw()
	if err != nil {
		return nil, err
	}
	st, err := server.OpenState(ctx, r, key)
	if err != nil {
		r.Close()
		if errors.Is(err, sealed.ErrSealKey) {
			err = applet.Refused(code.SealKey, fmt.Errorf("opening the state %q: %w", f.Dir, err))
			if f.Platform != "" {
				err = applet.WithHint(err, "after an update of the image, or on another machine, restore a backup into a new folder")
			}
			return nil, err
		}
		return nil, fmt.Errorf("opening the state %q: %w", f.Dir, err)
	}
	return st, nil
}

// OpenBolt opens the state's store: nobody else may have it open.
func OpenBolt(dir string) (store.Store, error) {
	s, err := bolt.Open(filepath.Join(dir, DBFile))
	if errors.Is(err, store.ErrLocked) {
		return nil, applet.WithHint(applet.Later(code.StateLocked, err), "wait for the other command, or stop the other server")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}
