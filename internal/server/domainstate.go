package server

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/internal/audit"
	"attestbox/internal/secret"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Names in the store, below "domain/<first 16 bytes of the SHA-256 of the
// domain's name, hex>/".
const (
	suffixPolicy = "/policy"       // policyRecord
	suffixSigned = "/policy-file"  // the signed policy, where it fits into a value
	suffixShares = "/share-master" // 32 bytes
	suffixSecret = "/secrets-seal" // 32 bytes: opens the cryptstore of the domain's secrets
	suffixEpoch  = "/epoch/"       // and the instance: decimal
	suffixSaw    = "/launched/"    // and the same: launchedRecord

	keyAuditHead = "server/audit-head" // audit.Head
)

const domainShare = "attestbox/state/store-share/1"

func domainKey(domain, suffix string) string {
	sum := sha256.Sum256([]byte(domain))
	return "domain/" + hex.EncodeToString(sum[:16]) + suffix
}

// policyRecord is what must not be forgotten of a domain's policies.
type policyRecord struct {
	Domain  string     `json:"domain"`
	Version uint64     `json:"version"` // the highest that was ever in force here
	Digest  wire.Hex32 `json:"digest"`  // of that signed file
	// Floor is the least version that admissions may have been made under: it
	// rises to the version of each policy that takes something back.
	Floor uint64 `json:"floor"`
}

// policyRecord reads the record; one of version 0 where there is none.
func (st *State) policyRecord(ctx context.Context, domain string) (*policyRecord, []byte, error) {
	b, v, err := st.s.Get(ctx, domainKey(domain, suffixPolicy))
	if errors.Is(err, store.ErrNotFound) {
		return &policyRecord{Domain: domain}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the policy record of %s: %w", domain, err)
	}
	var r policyRecord
	if err := strictjson.Unmarshal(b, &r); err != nil || r.Domain != domain {
		return nil, nil, fmt.Errorf("reading the policy record of %s: malformed (%v)", domain, err)
	}
	return &r, v, nil
}

// keepPolicy durably records a policy that is to come into force, and its
// text where that fits. Lower versions are refused from then on.
func (st *State) keepPolicy(ctx context.Context, r *policyRecord, signed []byte) error {
	if len(signed) <= store.MaxValue-64 {
		if err := st.put(ctx, domainKey(r.Domain, suffixSigned), signed); err != nil {
			return fmt.Errorf("keeping the policy of %s: %w", r.Domain, err)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for range maxSwaps {
		old, v, err := st.policyRecord(ctx, r.Domain)
		switch {
		case err != nil:
			return err
		case old.Version > r.Version || old.Floor > r.Floor:
			return fmt.Errorf("policy of %s: version %d with floor %d is recorded, %d with floor %d is too old", r.Domain, old.Version, old.Floor, r.Version, r.Floor)
		case v == nil:
			err = st.s.Create(ctx, domainKey(r.Domain, suffixPolicy), b)
		default:
			err = st.s.Replace(ctx, domainKey(r.Domain, suffixPolicy), v, b)
		}
		if err == nil || (!errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists)) {
			return err
		}
	}
	return errBusy
}

// keptPolicy is the signed text of the policy that was in force last; nil if it
// is not there. It is checked against the record by whoever uses it.
func (st *State) keptPolicy(ctx context.Context, domain string) []byte {
	b, _, err := st.s.Get(ctx, domainKey(domain, suffixSigned))
	if err != nil {
		return nil
	}
	return b
}

// domainSecret reads a random secret of a domain, made at first use.
func (st *State) domainSecret(ctx context.Context, domain, suffix string) (*secret.Bytes, error) {
	key := domainKey(domain, suffix)
	for range maxSwaps {
		s, _, err := st.s.GetSecret(ctx, key)
		if !errors.Is(err, store.ErrNotFound) {
			return s, err
		}
		fresh := secret.Random(32)
		err = st.s.Create(ctx, key, fresh.Bytes())
		if err == nil {
			return fresh, nil
		}
		fresh.Zero()
		if !errors.Is(err, store.ErrExists) {
			return nil, err
		}
	}
	return nil, errBusy
}

// storeShare is an instance's share of its stores in a domain (DESIGN section
// 7). It is derived, so that the same instance gets the same share for ever.
func storeShare(master *secret.Bytes, domain string, instance [32]byte) (*secret.Bytes, error) {
	info := binary.LittleEndian.AppendUint32([]byte(domainShare+"\x00"), uint32(len(domain)))
	info = append(append(info, domain...), instance[:]...)
	if master.Len() != 32 {
		return nil, errors.New("the domain is closed")
	}
	k, err := hkdf.Key(sha256.New, master.Bytes(), nil, string(info), 32)
	if err != nil {
		return nil, err
	}
	return secret.Take(k), nil
}

// raiseEpoch durably records the epoch of an instance's store and returns the
// highest that the instance has ever proved.
func (st *State) raiseEpoch(ctx context.Context, domain string, instance [32]byte, proved uint64) (uint64, error) {
	key := domainKey(domain, suffixEpoch+hex.EncodeToString(instance[:]))
	for range maxSwaps {
		b, v, err := st.s.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if proved == 0 {
				return 0, nil
			}
			err = st.s.Create(ctx, key, fmt.Appendf(nil, "%d", proved))
		case err != nil:
			return 0, err
		default:
			var known uint64
			if n, err := fmt.Sscanf(string(b), "%d", &known); n != 1 || err != nil {
				return 0, fmt.Errorf("reading the store epoch of %x: malformed", instance)
			}
			if proved <= known {
				return known, nil
			}
			err = st.s.Replace(ctx, key, v, fmt.Appendf(nil, "%d", proved))
		}
		if err == nil {
			return proved, nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) {
			return 0, err
		}
	}
	return 0, errBusy
}

// AuditHead is the sealed head of the audit log.
func (st *State) AuditHead(ctx context.Context) (h audit.Head, err error) {
	b, _, err := st.s.Get(ctx, keyAuditHead)
	if errors.Is(err, store.ErrNotFound) {
		return h, nil
	}
	if err == nil {
		err = strictjson.Unmarshal(b, &h)
	}
	if err != nil {
		return h, fmt.Errorf("reading the head of the audit log: %w", err)
	}
	return h, nil
}

func (st *State) setAuditHead(ctx context.Context, h audit.Head) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return st.put(ctx, keyAuditHead, b)
}
