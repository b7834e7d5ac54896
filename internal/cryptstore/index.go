package cryptstore

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	flagExportable = 1 << 0
	flagDeleted    = 1 << 1
)

// record is one line of the index.
type record struct {
	Entry
	deleted bool
	epoch   uint64   // of writing
	id      [16]byte // of the value
}

func compareRecords(a, b record) int {
	return cmp.Or(strings.Compare(a.Tag, b.Tag), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Version, b.Version))
}

func (r *record) ad(b *Binding) []byte {
	le := binary.LittleEndian
	return lengthPrefixed([]byte(b.Name), b.ID[:], []byte(r.Tag), []byte{byte(r.Type)},
		le.AppendUint32(nil, uint32(r.Version)), le.AppendUint64(nil, r.epoch), r.id[:])
}

func (r *record) check() error {
	if err := CheckTag(r.Tag); err != nil {
		return err
	}
	if !r.Type.valid() || r.Version < 1 || r.Version > MaxVersion || r.epoch == 0 || !r.Alg.valid() && r.Alg != "" {
		return fmt.Errorf("%w: %s of epoch %d, algorithm %.20q", ErrInvalid, r.Entry, r.epoch, r.Alg)
	}
	if r.deleted {
		if r.Exportable || r.Size != 0 || r.Alg != "" || r.id != [16]byte{} {
			return fmt.Errorf("%w: deleted %s with a value", ErrInvalid, r.Entry)
		}
	} else if r.Size < 1 || r.Size > MaxValue {
		return fmt.Errorf("%w: %s of %d bytes", ErrInvalid, r.Entry, r.Size)
	}
	return nil
}

func marshalIndex(records []record) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(records)))
	for _, r := range records {
		b = append(append(b, byte(len(r.Tag))), r.Tag...)
		flags := byte(0)
		if r.Exportable {
			flags |= flagExportable
		}
		if r.deleted {
			flags |= flagDeleted
		}
		b = append(b, byte(r.Type), flags)
		b = le.AppendUint32(b, uint32(r.Version))
		b = le.AppendUint64(b, uint64(r.Time.Unix()))
		b = le.AppendUint64(b, r.epoch)
		b = append(b, r.id[:]...)
		b = le.AppendUint32(b, uint32(r.Size))
		b = append(append(b, byte(len(r.Alg))), r.Alg...)
	}
	return b
}

// minRecord is the size of the shortest record, in bytes.
const minRecord = 2 + 2 + 4 + 8 + 8 + 16 + 4 + 1

func parseIndex(b []byte) ([]record, error) {
	rd := reader{b: b}
	n := rd.u32()
	if int64(n)*minRecord > int64(len(b)) {
		return nil, fmt.Errorf("%w: index of %d bytes with %d records", ErrInvalid, len(b), n)
	}
	records := make([]record, 0, n)
	for range n {
		var r record
		r.Tag = string(rd.take(int(rd.u8())))
		r.Type = Type(rd.u8())
		flags := rd.u8()
		r.Exportable, r.deleted = flags&flagExportable != 0, flags&flagDeleted != 0
		version := rd.u32()
		r.Time = time.Unix(int64(rd.u64()), 0).UTC()
		r.epoch = rd.u64()
		copy(r.id[:], rd.take(len(r.id)))
		size := rd.u32()
		r.Alg = Alg(rd.take(int(rd.u8())))
		if rd.bad || flags>>2 != 0 || version > MaxVersion || size > MaxValue {
			return nil, fmt.Errorf("%w: malformed index", ErrInvalid)
		}
		r.Version, r.Size = int(version), int(size)
		if err := r.check(); err != nil {
			return nil, err
		}
		if len(records) > 0 && compareRecords(records[len(records)-1], r) >= 0 {
			return nil, fmt.Errorf("%w: index out of order", ErrInvalid)
		}
		records = append(records, r)
	}
	if rd.bad || len(rd.b) > 0 {
		return nil, fmt.Errorf("%w: malformed index", ErrInvalid)
	}
	return records, nil
}

// index is the parsed index of one head; it is not changed, only replaced.
type index []record

// of gives all records of a tag and type, ascending.
func (x index) of(tag string, t Type) []record {
	from, _ := slices.BinarySearchFunc(x, record{Entry: Entry{Tag: tag, Type: t}}, compareRecords)
	to := from
	for to < len(x) && x[to].Tag == tag && x[to].Type == t {
		to++
	}
	return x[from:to]
}

// find gives a living record; version 0 is the latest.
func (x index) find(tag string, t Type, version int) (record, error) {
	all := x.of(tag, t)
	for i := len(all) - 1; i >= 0; i-- {
		if r := all[i]; !r.deleted && (version == 0 || r.Version == version) {
			return r, nil
		}
	}
	e := Entry{Tag: tag, Type: t, Version: version}
	if version == 0 {
		return record{}, fmt.Errorf("%s %s: %w", t, tag, ErrNotFound)
	}
	return record{}, fmt.Errorf("%s: %w", e, ErrNotFound)
}

// highest is the highest version ever of a tag and type; 0 without one.
func (x index) highest(tag string, t Type) int {
	if all := x.of(tag, t); len(all) > 0 {
		return all[len(all)-1].Version
	}
	return 0
}

// with adds a record, in place of a deleted one that it makes superfluous.
func (x index) with(r record) index {
	out := slices.DeleteFunc(slices.Clone(x), func(o record) bool {
		return o.deleted && o.Tag == r.Tag && o.Type == r.Type
	})
	at, _ := slices.BinarySearchFunc(out, r, compareRecords)
	return slices.Insert(out, at, r)
}

// without removes a record and keeps its number if it is the highest.
func (x index) without(r record, epoch uint64, now time.Time) index {
	out := slices.DeleteFunc(slices.Clone(x), func(o record) bool { return compareRecords(o, r) == 0 })
	if x.highest(r.Tag, r.Type) != r.Version {
		return out
	}
	return out.with(record{Entry: Entry{Tag: r.Tag, Type: r.Type, Version: r.Version, Time: now}, deleted: true, epoch: epoch})
}

func valueKey(prefix string, id [16]byte) string { return prefix + "v/" + hex.EncodeToString(id[:]) }
