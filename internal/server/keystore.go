package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/store/sealed"
	"attestbox/internal/wire"
)

// keyStore keeps the secrets of one domain in a cryptstore over the server's
// state. A name is a tag; it has one type, that of its first version.
type keyStore struct {
	c       *cryptstore.Store
	sealKey *secret.Bytes // owned

	mu      sync.Mutex
	waiting map[string]map[*watcher]bool
}

// watcher is told that a name changed. Its channel holds one notice: a slow
// client misses versions in between, never the latest, and holds nobody up.
type watcher struct{ notice chan struct{} }

// underSeal is the state as a store, for the cryptstores of domains: their
// values are sealed like everything else, and so are in backups.
type underSeal struct{ s *sealed.Store }

var _ store.Store = underSeal{}

func (u underSeal) Get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := u.s.Get(ctx, key)
	return b, err
}

func (u underSeal) Create(ctx context.Context, key string, value []byte) error {
	return u.s.Create(ctx, key, value)
}

func (u underSeal) Replace(ctx context.Context, key string, old, value []byte) error {
	v, err := u.version(ctx, key, old)
	if err != nil {
		return err
	}
	return u.s.Replace(ctx, key, v, value)
}

func (u underSeal) Delete(ctx context.Context, key string, old []byte) error {
	v, err := u.version(ctx, key, old)
	if err != nil {
		return err
	}
	return u.s.Delete(ctx, key, v)
}

// version is the sealed form of a value that is what the caller thinks.
func (u underSeal) version(ctx context.Context, key string, old []byte) (sealed.Version, error) {
	b, v, err := u.s.Get(ctx, key)
	if err == nil && !bytes.Equal(b, old) {
		err = fmt.Errorf("%q: %w", key, store.ErrConflict)
	}
	return v, err
}

func (u underSeal) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	return u.s.List(ctx, prefix, after, limit)
}

// Close does nothing: the state is the server's.
func (u underSeal) Close() error { return nil }

// EnableKeys opens the domain's secrets, making their store at first use.
func (d *Domain) EnableKeys(ctx context.Context) error {
	if d.secrets != nil {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("domain %s: opening its secrets: %w", d.name, err) }
	key, err := d.st.domainSecret(ctx, d.name, suffixSecret)
	if err != nil {
		return fail(err)
	}
	name := "keys-" + domainKey(d.name, "")[len("domain/"):]
	by := cryptstore.KeyFile{Key: key}
	c, err := cryptstore.Open(ctx, underSeal{d.st.s}, name, by, cryptstore.Options{})
	if errors.Is(err, store.ErrNotFound) {
		c, err = cryptstore.Create(ctx, underSeal{d.st.s}, name, by, cryptstore.Options{})
	}
	if err != nil {
		key.Zero()
		return fail(err)
	}
	d.secrets = &keyStore{c: c, sealKey: key, waiting: map[string]map[*watcher]bool{}}
	return nil
}

func (k *keyStore) Close() error {
	k.sealKey.Zero()
	return k.c.Close()
}

// entry finds a version of a name, 0 for the latest: errUnknown.
func (k *keyStore) entry(ctx context.Context, name string, version uint64) (cryptstore.Entry, error) {
	list, err := k.c.List(ctx)
	if err != nil {
		return cryptstore.Entry{}, err
	}
	var found cryptstore.Entry
	for _, e := range list { // versions ascend
		if e.Tag == name && (version == 0 || uint64(e.Version) == version) {
			found = e
		}
	}
	if found.Version == 0 {
		return found, errUnknown
	}
	return found, nil
}

var (
	errUnknown = code.Wrap(code.SecretUnknown, errors.New("there is no such secret or version"))
	errInvalid = errors.New("not what a key server keeps")
)

func invalid(format string, a ...any) error {
	return code.Wrap(code.SecretInvalid, fmt.Errorf("%w: "+format, append([]any{errInvalid}, a...)...))
}

// get opens a version of a name; the caller zeroes the value.
func (k *keyStore) get(ctx context.Context, name string, version uint64) (*secret.Bytes, cryptstore.Entry, error) {
	e, err := k.entry(ctx, name, version)
	if err != nil {
		return nil, e, err
	}
	v, e, err := k.c.Get(ctx, name, e.Type, e.Version)
	if errors.Is(err, cryptstore.ErrNotFound) {
		err = errUnknown // deleted meanwhile
	}
	return v, e, err
}

// put writes a version, 0 for the next.
func (k *keyStore) put(ctx context.Context, name, kind string, version uint64, value *secret.Bytes) (cryptstore.Entry, error) {
	typ := cryptstore.Blob
	old, err := k.entry(ctx, name, 0)
	known := err == nil
	if err != nil && !errors.Is(err, errUnknown) {
		return old, err
	}
	if known {
		typ = old.Type
	}
	if kind != "" {
		t, err := cryptstore.ParseType(kind)
		if err != nil {
			return old, invalid("%v", err)
		}
		if known && t != typ {
			return old, invalid("%s is of type %s, not %s", name, typ, t)
		}
		typ = t
	}
	if version > cryptstore.MaxVersion {
		return old, invalid("version %d", version)
	}
	e, err := k.c.Put(ctx, cryptstore.Item{Tag: name, Type: typ, Version: int(version), Exportable: true, Value: value})
	if err != nil {
		return e, coded(err)
	}
	k.changed(name)
	return e, nil
}

// rotate generates a version: of the algorithm given, or as before.
func (k *keyStore) rotate(ctx context.Context, name, alg string) (cryptstore.Entry, error) {
	old, err := k.entry(ctx, name, 0)
	known := err == nil
	if err != nil && !errors.Is(err, errUnknown) {
		return old, err
	}
	if alg == "" {
		if !known {
			return old, errUnknown
		}
		if alg = string(old.Alg); alg == "" {
			return old, invalid("%s was put, not generated: name an algorithm, or put its next version", name)
		}
	}
	a := cryptstore.Alg(alg)
	if known && a.Type() != old.Type {
		return old, invalid("%s is of type %s, %s makes another", name, old.Type, alg)
	}
	e, err := k.c.Generate(ctx, name, a, true)
	if err != nil {
		return e, coded(err)
	}
	k.changed(name)
	return e, nil
}

// remove deletes a version, 0 for all.
func (k *keyStore) remove(ctx context.Context, name string, version uint64) error {
	e, err := k.entry(ctx, name, version)
	if err != nil {
		return err
	}
	if version == 0 {
		err = k.c.DeleteAll(ctx, name, e.Type)
	} else {
		err = k.c.Delete(ctx, name, e.Type, e.Version)
	}
	if err != nil {
		return coded(err)
	}
	k.changed(name)
	return nil
}

// coded gives a cryptstore's refusals the code that the client is told.
func coded(err error) error {
	switch {
	case errors.Is(err, cryptstore.ErrNotFound):
		return errUnknown
	case errors.Is(err, cryptstore.ErrExists), errors.Is(err, cryptstore.ErrVersion):
		return &code.Error{Code: code.SecretExists, Err: errors.New(err.Error())}
	case errors.Is(err, cryptstore.ErrInvalid), errors.Is(err, cryptstore.ErrFull):
		return invalid("%v", err)
	}
	return err
}

// latest lists the latest version of every name that may be seen.
func (k *keyStore) latest(ctx context.Context, visible func(name string) bool) ([]wire.KeyName, error) {
	list, err := k.c.List(ctx)
	if err != nil {
		return nil, err
	}
	out := []wire.KeyName{}
	for _, e := range list { // in order of tag, type, version
		n := wire.KeyName{Name: e.Tag, Version: uint64(e.Version), Kind: e.Type.String()}
		switch {
		case len(out) > 0 && out[len(out)-1].Name == e.Tag:
			out[len(out)-1] = n
		case visible(e.Tag):
			out = append(out, n)
		}
	}
	return out, nil
}

func (k *keyStore) watch(name string) *watcher {
	w := &watcher{make(chan struct{}, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[name] == nil {
		k.waiting[name] = map[*watcher]bool{}
	}
	k.waiting[name][w] = true
	return w
}

func (k *keyStore) unwatch(name string, w *watcher) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.waiting[name], w)
	if len(k.waiting[name]) == 0 {
		delete(k.waiting, name)
	}
}

func (k *keyStore) changed(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.waiting[name] {
		select {
		case w.notice <- struct{}{}:
		default: // it has one already
		}
	}
}
