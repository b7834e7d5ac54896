package server

import (
	"bytes"
	"context"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"attestbox/internal/recipient"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/sealed"
)

// A backup file is the line backupMagic, then HPKE (package recipient; info is
// the magic line): encapsulated key and ciphertext. Inside: the domain string, the time (8 bytes, Unix
// seconds, little-endian), then name and value of everything, each preceded by
// its length, 4 bytes little-endian.
//
// A backup holds what it held when it was made: restoring an old one sets boot
// counters and decommissioned IDs back to that day.
const (
	backupMagic  = "attestbox backup 1\n"
	domainBackup = "attestbox/backup/1"

	// MaxBackup bounds a backup, in bytes.
	MaxBackup = 512 << 20
)

var (
	// ErrBackup is a backup that was changed, cut or is none.
	ErrBackup = errors.New("not a backup, or it was changed")
	// ErrRecipient is a backup that this key does not open: it was made for
	// another one, or changed.
	ErrRecipient = errors.New("the backup does not open with this key: it was made for another one, or changed")
)

// growing is a secret that grows; what it leaves behind is wiped.
type growing struct {
	s *secret.Bytes
	n int
}

func (g *growing) put(f []byte) error {
	need := g.n + 4 + len(f)
	if need > MaxBackup {
		return fmt.Errorf("the state is larger than %d bytes", MaxBackup)
	}
	if need > g.s.Len() {
		bigger := secret.New(max(need, 2*g.s.Len(), 64<<10))
		copy(bigger.Bytes(), g.s.Bytes()[:g.n])
		g.s.Zero()
		g.s = bigger
	}
	b := g.s.Bytes()
	binary.LittleEndian.PutUint32(b[g.n:], uint32(len(f)))
	copy(b[g.n+4:], f)
	g.n = need
	return nil
}

// everything are the prefixes of what a backup holds. The order matters while
// a server is at work: whatever is written first is read last.
func everything() []string {
	return []string{"server/", "domain/", prefixBoots, prefixInstance, prefixSecrets, prefixSpent, prefixApproved, prefixImageID, prefixCryptstore}
}

// known says whether a backup holds values of this name.
func known(key string) bool {
	return slices.ContainsFunc(everything(), func(p string) bool { return strings.HasPrefix(key, p) })
}

// Backup encrypts the whole state to a recipient.
func (st *State) Backup(ctx context.Context, to hpke.PublicKey, now time.Time) ([]byte, error) {
	g := &growing{s: secret.New(64 << 10)}
	defer func() { g.s.Zero() }()
	if err := g.put([]byte(domainBackup)); err != nil {
		return nil, err
	}
	if err := g.put(binary.LittleEndian.AppendUint64(nil, uint64(now.Unix()))); err != nil {
		return nil, err
	}
	if err := st.s.All(ctx, "", func(key string) error {
		if !known(key) && !strings.HasPrefix(key, "meta/") {
			return fmt.Errorf("the state holds %.80q, which this program does not back up", key)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("making a backup: %w", err)
	}
	for _, prefix := range everything() {
		if prefix == prefixCryptstore {
			if err := st.backupSecrets(ctx, g); err != nil {
				return nil, fmt.Errorf("making a backup: %w", err)
			}
			continue
		}
		if err := st.s.All(ctx, prefix, func(key string) error {
			v, _, err := st.s.GetSecret(ctx, key)
			if errors.Is(err, store.ErrNotFound) {
				return nil // deleted meanwhile
			}
			if err != nil {
				return err
			}
			defer v.Zero()
			if err := g.put([]byte(key)); err != nil {
				return err
			}
			return g.put(v.Bytes())
		}); err != nil {
			return nil, fmt.Errorf("making a backup: %w", err)
		}
	}
	b, err := recipient.Seal(to, []byte(backupMagic), g.s.Bytes()[:g.n])
	if err != nil {
		return nil, fmt.Errorf("making a backup: %w", err)
	}
	return append([]byte(backupMagic), b...), nil
}

// prefixCryptstore is where the domains' secrets lie.
const prefixCryptstore = "cryptstore/"

// backupSecrets adds the domains' secrets as they were at one moment: a head
// names values that a later write removes.
func (st *State) backupSecrets(ctx context.Context, g *growing) error {
	for range maxSwaps {
		start := g.n
		heads := map[string][]byte{}
		err := st.s.All(ctx, prefixCryptstore, func(key string) error {
			b, v, err := st.s.Get(ctx, key)
			if errors.Is(err, store.ErrNotFound) {
				return nil // the head is another by now, too
			}
			if err != nil {
				return err
			}
			if strings.HasSuffix(key, "/head") {
				heads[key] = v
			}
			if err := g.put([]byte(key)); err != nil {
				return err
			}
			return g.put(b)
		})
		if err != nil {
			return err
		}
		same := true
		for key, before := range heads {
			_, now, err := st.s.Get(ctx, key)
			if err != nil {
				return err
			}
			same = same && bytes.Equal(before, now)
		}
		if same {
			return nil
		}
		g.n = start
	}
	return errBusy
}

// Restore fills an empty store with the state of a backup, sealed by another
// key. It takes raw over and says when the backup was made.
func Restore(ctx context.Context, raw store.Store, key sealed.Key, backup []byte, by hpke.PrivateKey) (*State, time.Time, error) {
	fail := func(err error) (*State, time.Time, error) {
		return nil, time.Time{}, fmt.Errorf("restoring: %w", err)
	}
	body, ok := strings.CutPrefix(string(backup[:min(len(backup), len(backupMagic))]), backupMagic)
	if !ok || body != "" {
		return fail(ErrBackup)
	}
	plain, err := recipient.Open(by, []byte(backupMagic), backup[len(backupMagic):])
	if err != nil {
		return fail(ErrRecipient)
	}
	defer plain.Zero()
	entries, made, err := parseBackup(plain.Bytes())
	if err != nil {
		return fail(err)
	}
	s, err := sealed.Create(ctx, raw, key)
	if err != nil {
		return fail(err)
	}
	// The configuration comes last: a state without it does not open.
	for _, last := range []bool{false, true} {
		for _, e := range entries {
			if (e.key == keyConfig) != last {
				continue
			}
			if err := s.Create(ctx, e.key, e.value); err != nil {
				return fail(err)
			}
		}
	}
	st, err := openState(ctx, s)
	if err != nil {
		return fail(err)
	}
	if _, _, err := st.Certificate(ctx); err != nil {
		return fail(err)
	}
	return st, made, nil
}

type entry struct {
	key   string
	value []byte // part of the caller's bytes
}

// parseBackup takes the inside of a backup apart.
func parseBackup(b []byte) (entries []entry, made time.Time, err error) {
	next := func() []byte {
		if err != nil {
			return nil
		}
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
			err = fmt.Errorf("%w: truncated", ErrBackup)
			return nil
		}
		n := 4 + binary.LittleEndian.Uint32(b)
		f := b[4:n]
		b = b[n:]
		return f
	}
	domain, stamp := next(), next()
	if err != nil {
		return nil, made, err
	}
	if string(domain) != domainBackup || len(stamp) != 8 {
		return nil, made, ErrBackup
	}
	made = time.Unix(int64(binary.LittleEndian.Uint64(stamp)), 0)
	seen := map[string]bool{}
	for len(b) > 0 {
		key, value := string(next()), next()
		if err != nil {
			return nil, made, err
		}
		if !known(key) || seen[key] || store.Check(key, value) != nil {
			return nil, made, fmt.Errorf("%w: entry %.80q", ErrBackup, key)
		}
		seen[key] = true
		entries = append(entries, entry{key, value})
	}
	return entries, made, nil
}
