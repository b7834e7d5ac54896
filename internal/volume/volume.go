// Package volume makes and opens local data volumes: disks with integrity whose
// key and header record are kept in a cryptstore and never leave the machine.
// What the store says decides, not what the disk shows: a volume is made once,
// on a blank device, and a store that promises one opens that one or nothing.
//
// It does not notice that a disk was set back to an older state of itself
// (docs/integrity.md).
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Store is what is used of a cryptstore.
type Store interface {
	Get(ctx context.Context, tag string, t cryptstore.Type, version int) (*secret.Bytes, cryptstore.Entry, error)
	Put(ctx context.Context, it cryptstore.Item) (cryptstore.Entry, error)
	Delete(ctx context.Context, tag string, t cryptstore.Type, version int) error
}

// errUnknown is a store without an entry of the tag.
var errUnknown = errors.New("the store has no such volume")

// keySize is the key's, in front of an entry's JSON.
const keySize = 32

// entry is a volume as the store has it, a blob: the key, then this as JSON.
// A volume is promised before its device is written to, and finished when all
// of it was.
type entry struct {
	Finished bool               `json:"finished"`
	Record   *wire.HeaderRecord `json:"record"`
}

// load gives the entry of a tag and its key, which the caller wipes:
// errUnknown, with the code volume-unknown, if there is none; volume-unknown
// alone for an entry that is something else.
func load(ctx context.Context, s Store, tag string) (*entry, *secret.Bytes, int, error) {
	v, e, err := s.Get(ctx, tag, cryptstore.Blob, 0)
	if errors.Is(err, cryptstore.ErrNotFound) {
		return nil, nil, 0, code.Wrap(code.VolumeUnknown, fmt.Errorf("volume %q: %w", tag, errUnknown))
	}
	if err != nil {
		return nil, nil, 0, err
	}
	defer v.Zero()
	var out entry
	if v.Len() <= keySize {
		err = errors.New("it is too short")
	} else if err = strictjson.Unmarshal(v.Bytes()[keySize:], &out); err == nil {
		err = luks.CheckRecord(out.Record)
	}
	if err != nil {
		return nil, nil, 0, code.Wrap(code.VolumeUnknown, fmt.Errorf("entry %q of the store is no volume: %v", tag, err))
	}
	return &out, secret.Copy(v.Bytes()[:keySize]), e.Version, nil
}

// save writes the next version of an entry, and then removes the one of before,
// if there is one.
func save(ctx context.Context, s Store, tag string, key *secret.Bytes, e entry, before int) (int, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	v := secret.New(keySize + len(text))
	defer v.Zero()
	copy(v.Bytes(), key.Bytes())
	copy(v.Bytes()[keySize:], text)
	put, err := s.Put(ctx, cryptstore.Item{Tag: tag, Type: cryptstore.Blob, Value: v})
	if err != nil {
		return 0, fmt.Errorf("keeping volume %q: %w", tag, err)
	}
	if before != 0 {
		if err := s.Delete(ctx, tag, cryptstore.Blob, before); err != nil {
			return 0, fmt.Errorf("removing an old version of volume %q: %w", tag, err)
		}
	}
	return put.Version, nil
}

// Get is the record and the key by which a finished volume opens; the caller
// wipes the key.
func Get(ctx context.Context, s Store, tag string) (*wire.HeaderRecord, *secret.Bytes, error) {
	e, key, _, err := load(ctx, s, tag)
	if err != nil {
		return nil, nil, err
	}
	if !e.Finished {
		key.Zero()
		return nil, nil, code.Wrap(code.VolumeUnfinished, fmt.Errorf("volume %q was promised and never finished", tag))
	}
	return e.Record, key, nil
}
