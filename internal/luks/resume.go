package luks

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// KnownRecords are the records that a header area itself gives, for its owner
// who has none yet: of the whole area, or of the copies that are valid. They
// say what is there and not that it is the owner's.
func KnownRecords(area []byte) ([]wire.HeaderRecord, error) {
	whole, err := RecordOf(area)
	if err == nil {
		return []wire.HeaderRecord{*whole}, nil
	}
	var out []wire.HeaderRecord
	for _, scope := range []string{wire.ScopeSecondary, wire.ScopePrimary} {
		if r, err := CopyRecordOf(area, scope); err == nil {
			out = append(out, *r)
		}
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// opens says whether a key opens what a record describes; false is another
// header, or another key, and anything else is an error.
func opens(area []byte, r *wire.HeaderRecord, key *secret.Bytes, limits Limits) (bool, error) {
	if key.Len() == 0 || !Matches(area, r) {
		return false, nil
	}
	v, err := OpenWithin(bytes.NewReader(area), r, key, limits)
	if c, _ := code.Of(err); c == code.LUKSWrongKey {
		return false, nil
	}
	v.Close()
	return err == nil, err
}

// ToNewKey plans what leads from area, in whatever state a rotation left it, to
// a header with newKey alone. Only records that match count. A rotation that
// has nothing left to do has no steps.
func ToNewKey(area []byte, records []wire.HeaderRecord, oldKey, newKey *secret.Bytes, random io.Reader, limits Limits) (*Rotation, error) {
	try := func(scope string, key *secret.Bytes, plan func(*wire.HeaderRecord) (*Rotation, error)) (*Rotation, error) {
		for i := range records {
			r := &records[i]
			if r.Scope != scope {
				continue
			}
			if ok, err := opens(area, r, key, limits); err != nil {
				return nil, err
			} else if ok {
				return plan(r)
			}
		}
		return nil, nil
	}
	resume := func(r *wire.HeaderRecord) (*Rotation, error) {
		if r.Scope == wire.ScopeWhole { // it may hold more than what is needed still
			var err error
			if r, err = CopyRecordOf(area, wire.ScopeSecondary); err != nil {
				return nil, err
			}
		}
		return ResumeRotation(area, r, newKey)
	}
	begin := func(r *wire.HeaderRecord) (*Rotation, error) {
		return PlanRotation(area, r, oldKey, newKey, random, limits)
	}
	for _, way := range []func() (*Rotation, error){
		func() (*Rotation, error) { return try(wire.ScopeWhole, newKey, resume) },
		func() (*Rotation, error) { return try(wire.ScopeSecondary, newKey, resume) },
		func() (*Rotation, error) { return try(wire.ScopeWhole, oldKey, begin) },
		func() (*Rotation, error) { return try(wire.ScopePrimary, oldKey, begin) },
	} {
		if r, err := way(); r != nil || err != nil {
			return r, err
		}
	}
	return nil, noWay(area, records)
}

// ToOldKey plans the way back: from area to a header with oldKey alone. There
// is none once the primary header is the new one.
func ToOldKey(area []byte, records []wire.HeaderRecord, oldKey *secret.Bytes, limits Limits) (*Rotation, error) {
	for _, scope := range []string{wire.ScopeWhole, wire.ScopePrimary} {
		for i := range records {
			r := &records[i]
			if r.Scope != scope {
				continue
			}
			ok, err := opens(area, r, oldKey, limits)
			switch {
			case err != nil:
				return nil, err
			case ok && scope == wire.ScopeWhole: // nothing was written
				return &Rotation{Before: *r, After: *r, Final: *r}, nil
			case ok:
				return ResumeRotation(area, r, oldKey)
			}
		}
	}
	return nil, noWay(area, records)
}

func noWay(area []byte, records []wire.HeaderRecord) error {
	for i := range records {
		if Matches(area, &records[i]) {
			return code.Wrap(code.LUKSWrongKey, errors.New("the header is a known one, and neither key opens it"))
		}
	}
	return code.Wrap(code.LUKSHeaderDigest, fmt.Errorf("the header area is none of the %d that are known", len(records)))
}
