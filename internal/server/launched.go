package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/internal/claim"
	"attestbox/internal/proof"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
)

// launchedRecord is what the ID block of a member's launch said. It is kept by
// instance and measurement, as the epoch of its store is: when an image that
// succeeds it asks for the store's key, it may be gone.
type launchedRecord struct {
	IDKey    string `json:"id_key"`
	ImageID  string `json:"image_id"`
	FamilyID string `json:"family_id,omitempty"`
	SVN      uint32 `json:"svn"`
}

// recordLaunched keeps what an admitted member was launched as, where the policy
// names an image that it is a version of. A later such admission of the same
// measurement takes its place. An ID block of anybody else's says nothing: who
// has a machine can sign one for a digest that is trusted as such, and would
// deny the owner's next image the store.
func (st *State) recordLaunched(ctx context.Context, domain string, auth *proof.Authorizer, l claim.Launched, key [32]byte) error {
	if !auth.NamesImage(l) {
		return nil
	}
	b, err := json.Marshal(launchedRecord{l.IDKey, l.ImageID, l.FamilyID, l.SVN})
	if err != nil {
		return err
	}
	name := domainKey(domain, suffixSaw+hex.EncodeToString(key[:]))
	if have, _, err := st.s.Get(ctx, name); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return st.put(ctx, name, b)
}

// launchedBefore is an earlier launch of an instance by its measurement, with
// what its ID block said where it was admitted with one.
func (st *State) launchedBefore(ctx context.Context, domain string, instance [32]byte, measurement []byte) (l claim.Launched, err error) {
	l.Measurement = claim.Measurement{Digest: hex.EncodeToString(measurement), Instance: hex.EncodeToString(instance[:])}
	key := epochKey(instance, measurement)
	b, _, err := st.s.Get(ctx, domainKey(domain, suffixSaw+hex.EncodeToString(key[:])))
	if errors.Is(err, store.ErrNotFound) {
		return l, nil
	}
	var r launchedRecord
	if err == nil {
		err = strictjson.Unmarshal(b, &r)
	}
	if err != nil {
		return l, fmt.Errorf("reading what instance %x was launched as: %w", instance, err)
	}
	l.IDKey, l.ImageID, l.FamilyID, l.SVN = r.IDKey, r.ImageID, r.FamilyID, r.SVN
	return l, nil
}
