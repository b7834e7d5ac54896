package cryptstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"attestbox/internal/secret"
	"attestbox/internal/store"
)

// Sealer makes and finds again the sealing key that wraps a store's key.
// Package seal has those of platforms, KeyFile is the one of the owner's side.
type Sealer interface {
	// Seal makes a sealing key of KeySize bytes for a store, and the kind and
	// the parameters by which Unseal finds it again. The caller zeroes the key.
	Seal(ctx context.Context, b Binding) (kind string, params []byte, key *secret.Bytes, err error)
	// Unseal finds the sealing key again. A seal that this sealer cannot open
	// is an error that wraps ErrSealed; so is, later, a wrong key.
	Unseal(ctx context.Context, b Binding, kind string, params []byte) (*secret.Bytes, error)
	// Escrow makes the server's copy of the store key, at most MaxEscrow
	// bytes; nil if there is none.
	Escrow(ctx context.Context, b Binding, storeKey *secret.Bytes) ([]byte, error)
}

// Options of Create and Open; the zero value is fine.
type Options struct {
	// MinEpoch is the least epoch that Open accepts: ErrRollback below it.
	// Whoever keeps it elsewhere notices that the state was set back. Create
	// begins above it, so that a new store counts as newer than a lost one.
	MinEpoch uint64
	// Aside opens a store that SetAside moved to this number, 1 and above.
	Aside int
	// Now is the clock of entries; time.Now if nil.
	Now func() time.Time
}

// Store is an open store. Its methods may be called concurrently, and several
// processes may work on one state.
type Store struct {
	raw    store.Store
	name   string
	prefix string
	now    func() time.Time

	write sync.Mutex   // one writer at a time; taken before keep
	keep  sync.RWMutex // held while key is in use
	key   *secret.Bytes

	mu    sync.Mutex // guards what follows
	epoch uint64     // highest seen
	last  *head      // as it was read or written last
}

// head is one state of a store.
type head struct {
	*Header
	index index
	raw   []byte
}

func prefixOf(name string, aside int) string {
	p := "cryptstore/" + name + "/"
	if aside > 0 {
		p = fmt.Sprintf("aside/%d/%s", aside, p)
	}
	return p
}

func newStore(raw store.Store, name string, key *secret.Bytes, o Options) *Store {
	s := &Store{raw: raw, name: name, prefix: prefixOf(name, o.Aside), now: o.Now, key: key}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Create makes an empty store: store.ErrExists if the name is taken. It takes
// raw over; on error the caller still owns it.
func Create(ctx context.Context, raw store.Store, name string, by Sealer, o Options) (*Store, error) {
	h := &Header{Epoch: o.MinEpoch + 1, Binding: Binding{Name: name}}
	random(h.ID[:])
	if err := CheckName(name); err != nil {
		return nil, err
	}
	key := secret.New(KeySize)
	random(key.Bytes())
	s := newStore(raw, name, key, o)
	err := sealHeader(ctx, h, by, key)
	if err == nil {
		var b []byte
		if b, err = marshalHead(h, key, nil); err == nil {
			err = raw.Create(ctx, s.prefix+"head", b)
		}
	}
	if err != nil {
		key.Zero()
		return nil, fmt.Errorf("creating cryptstore %q: %w", name, coded(err))
	}
	s.epoch = h.Epoch
	return s, nil
}

// sealHeader asks for a sealing key and puts the wrapped store key, the
// parameters and the escrow copy into h.
func sealHeader(ctx context.Context, h *Header, by Sealer, key *secret.Bytes) error {
	kind, params, sealing, err := by.Seal(ctx, h.Binding)
	if err != nil {
		return err
	}
	defer sealing.Zero()
	h.Kind, h.Params = kind, params
	if h.Escrow, err = by.Escrow(ctx, h.Binding, key); err != nil {
		return fmt.Errorf("making the escrow copy: %w", err)
	}
	if err := h.check(); err != nil {
		return err
	}
	return h.wrap(sealing, key)
}

func marshalHead(h *Header, key *secret.Bytes, x index) ([]byte, error) {
	b := h.marshal()
	box, err := sealBox(key, domainIndex, b, marshalIndex(x))
	if err != nil {
		return nil, err
	}
	if b = append(b, box...); len(b) > store.MaxValue {
		return nil, fmt.Errorf("%w: %d entries", ErrFull, len(x))
	}
	return b, nil
}

// Inspect reads a header without opening the store: what Unseal and a server
// that holds an escrow key need to know. It is not authenticated.
func Inspect(ctx context.Context, raw store.Store, name string, o Options) (*Header, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	b, err := raw.Get(ctx, prefixOf(name, o.Aside)+"head")
	if err != nil {
		return nil, fmt.Errorf("reading cryptstore %q: %w", name, err)
	}
	h, _, _, err := parseHead(b)
	if err == nil && h.Name != name {
		err = fmt.Errorf("%w: this is cryptstore %q", ErrTampered, h.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading cryptstore %q: %w", name, coded(err))
	}
	return h, nil
}

// Open opens a store: store.ErrNotFound without one, ErrSealed if the seal does
// not open it, ErrRollback below MinEpoch, ErrTampered. It takes raw over; on
// error the caller still owns it.
func Open(ctx context.Context, raw store.Store, name string, by Sealer, o Options) (*Store, error) {
	h, err := Inspect(ctx, raw, name, o)
	if err != nil {
		return nil, err
	}
	sealing, err := by.Unseal(ctx, h.Binding, h.Kind, h.Params)
	if err != nil {
		return nil, fmt.Errorf("opening cryptstore %q: %w", name, coded(err))
	}
	defer sealing.Zero()
	key, err := h.unwrap(sealing)
	if err != nil {
		return nil, fmt.Errorf("opening cryptstore %q: %w", name, coded(err))
	}
	return OpenWithKey(ctx, raw, name, key, o)
}

// OpenWithKey opens a store with its store key, as recovery gives it back. It
// takes over key, also on error, and raw as Open does. Seal it anew with Reseal.
func OpenWithKey(ctx context.Context, raw store.Store, name string, key *secret.Bytes, o Options) (*Store, error) {
	s := newStore(raw, name, key, o)
	s.epoch = o.MinEpoch
	if _, err := s.load(ctx); err != nil {
		key.Zero()
		return nil, fmt.Errorf("opening cryptstore %q: %w", name, coded(err))
	}
	return s, nil
}

// Close wipes the store key and closes the store below.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.keep.Lock()
	defer s.keep.Unlock()
	s.key.Zero()
	return s.raw.Close()
}

// Name is the store's name.
func (s *Store) Name() string { return s.name }

// Header is the present header, authenticated.
func (s *Store) Header(ctx context.Context) (Header, error) {
	s.keep.RLock()
	defer s.keep.RUnlock()
	h, err := s.load(ctx)
	if err != nil {
		return Header{}, coded(err)
	}
	return *h.Header, nil
}

// load reads the present head. The caller holds keep.
func (s *Store) load(ctx context.Context) (*head, error) {
	// What was seen before the read is what the read may not fall below: a
	// write that lands meanwhile raises s.epoch and makes nothing older.
	s.mu.Lock()
	last, floor := s.last, s.epoch
	s.mu.Unlock()
	b, err := s.raw.Get(ctx, s.prefix+"head")
	if err != nil {
		return nil, err
	}
	if last != nil && bytes.Equal(last.raw, b) {
		return last, nil
	}
	h, err := openHead(b, s.key, s.name)
	if err != nil {
		return nil, err
	}
	return h, s.saw(h, floor)
}

// openHead authenticates a head.
func openHead(b []byte, key *secret.Bytes, name string) (*head, error) {
	h, ad, box, err := parseHead(b)
	if err != nil {
		return nil, err
	}
	if h.Name != name {
		return nil, fmt.Errorf("%w: this is cryptstore %q", ErrTampered, h.Name)
	}
	plain := make([]byte, len(box)-boxOverhead)
	if err := openBox(key, domainIndex, ad, box, plain); err != nil {
		return nil, err
	}
	records, err := parseIndex(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrTampered, err)
	}
	return &head{Header: h, index: records, raw: b}, nil
}

// saw remembers a head and refuses one that is older than floor, the epoch that
// was seen before the head was read.
func (s *Store) saw(h *head, floor uint64) error {
	if h.Epoch < floor {
		return fmt.Errorf("%w: its epoch is %d, %d was seen", ErrRollback, h.Epoch, floor)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Epoch >= s.epoch {
		s.epoch, s.last = h.Epoch, h
	}
	return nil
}

// tx is one write: values are written at once, and count once the head names
// them.
type tx struct {
	ctx     context.Context
	s       *Store
	key     *secret.Bytes // of values and index
	header  Header
	index   index
	now     time.Time
	created [][16]byte
	dropped [][16]byte
}

// conflictTries bounds how often a write begins anew because another process
// was faster.
const conflictTries = 32

// update runs f on the present state until its result is in place. The caller
// holds write; f may run more than once.
func (s *Store) update(ctx context.Context, f func(*tx) error) error {
	s.keep.RLock()
	defer s.keep.RUnlock()
	return s.updateKept(ctx, f)
}

// updateKept is update for a caller that holds keep.
func (s *Store) updateKept(ctx context.Context, f func(*tx) error) error {
	for try := 1; ; try++ {
		err := s.updateOnce(ctx, f)
		if !errors.Is(err, store.ErrConflict) || try == conflictTries {
			return coded(err)
		}
	}
}

func (s *Store) updateOnce(ctx context.Context, f func(*tx) error) error {
	old, err := s.load(ctx)
	if err != nil {
		return err
	}
	t := &tx{ctx: ctx, s: s, key: s.key, header: *old.Header, index: old.index, now: s.now().UTC().Truncate(time.Second)}
	t.header.Epoch++
	if err := f(t); err != nil {
		t.remove(t.created)
		return err
	}
	b, err := marshalHead(&t.header, t.key, t.index)
	if err != nil {
		t.remove(t.created)
		return err
	}
	if err := s.raw.Replace(ctx, s.prefix+"head", old.raw, b); err != nil {
		if errors.Is(err, store.ErrConflict) {
			t.remove(t.created)
		}
		// Otherwise nobody knows which head is in place: both must open.
		return err
	}
	t.remove(t.dropped)
	return s.saw(&head{Header: &t.header, index: t.index, raw: b}, 0)
}

// put writes a value under a new ID and into the index.
func (t *tx) put(e Entry, v *secret.Bytes) error {
	r := record{Entry: e, epoch: t.header.Epoch}
	r.Size = v.Len()
	random(r.id[:])
	if err := r.check(); err != nil {
		return err
	}
	box, err := sealBox(t.key, domainValue, r.ad(&t.header.Binding), v.Bytes())
	if err != nil {
		return err
	}
	if err := t.s.raw.Create(t.ctx, valueKey(t.s.prefix, r.id), box); err != nil {
		return err
	}
	t.created = append(t.created, r.id)
	t.index = t.index.with(r)
	return nil
}

// drop takes a record out of the index.
func (t *tx) drop(r record) {
	t.index = t.index.without(r, t.header.Epoch, t.now)
	t.dropped = append(t.dropped, r.id)
}

// remove deletes values that no head names. What cannot be deleted now is
// found by Collect.
func (t *tx) remove(ids [][16]byte) {
	ctx := context.WithoutCancel(t.ctx)
	for _, id := range ids {
		key := valueKey(t.s.prefix, id)
		if b, err := t.s.raw.Get(ctx, key); err == nil {
			_ = t.s.raw.Delete(ctx, key, b)
		}
	}
}

// value opens the value of a record with the store key. The caller holds keep
// and zeroes the value.
func (s *Store) value(ctx context.Context, h *head, r record) (*secret.Bytes, error) {
	b, err := s.raw.Get(ctx, valueKey(s.prefix, r.id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s has no value", ErrTampered, r.Entry)
	}
	if err != nil {
		return nil, err
	}
	v := secret.New(r.Size)
	if err := openBox(s.key, domainValue, r.ad(&h.Binding), b, v.Bytes()); err != nil {
		v.Zero()
		return nil, fmt.Errorf("%s: %w", r.Entry, err)
	}
	return v, nil
}
