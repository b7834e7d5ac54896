package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/claim"
	"attestbox/internal/store"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// suffixRenewed and a hash of instance and measurement name a renewal.
const suffixRenewed = "/renewed/"

// renewal is a measurement that an instance may not go back to, because it was
// seen as a newer one. It only ever refuses.
type renewal struct {
	Domain   string     `json:"domain"`
	Instance wire.Hex32 `json:"instance"`
	Old      string     `json:"old"`    // hex
	New      string     `json:"new"`    // hex
	Policy   uint64     `json:"policy"` // the version that said so
	Time     int64      `json:"time"`   // Unix seconds
}

func (r *renewal) by() claim.Measurement {
	return claim.Measurement{Digest: r.New, Instance: r.Instance.String()}
}

// renewals are those of one domain, as they are in the store.
type renewals struct {
	mu   sync.Mutex
	list map[string]renewal // by renewalName
}

func renewalName(instance wire.Hex32, old string) string {
	sum := sha256.Sum256([]byte(instance.String() + old))
	return hex.EncodeToString(sum[:])
}

// loadRenewals reads what was narrowed before.
func (st *State) loadRenewals(ctx context.Context, domain string) (*renewals, error) {
	rs := &renewals{list: map[string]renewal{}}
	prefix := domainKey(domain, suffixRenewed)
	err := st.s.All(ctx, prefix, func(key string) error {
		b, _, err := st.s.Get(ctx, key)
		if err != nil {
			return err
		}
		var r renewal
		if err := strictjson.Unmarshal(b, &r); err != nil || r.Domain != domain || renewalName(r.Instance, r.Old) != key[len(prefix):] {
			return fmt.Errorf("renewal %s of %s: malformed (%v)", key, domain, err)
		}
		rs.list[key[len(prefix):]] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the renewals of %s: %w", domain, err)
	}
	return rs, nil
}

// refuses is the renewal that keeps a member from going back; nil if none does.
func (rs *renewals) refuses(id *admission.Identity) *renewal {
	if rs == nil {
		return nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r, ok := rs.list[renewalName(id.Instance, hex.EncodeToString(id.Measurement))]
	if !ok {
		return nil
	}
	return &r
}

func (rs *renewals) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.list)
}

// errRenewed is a measurement that the instance may not go back to.
type errRenewed struct{ r *renewal }

func (e *errRenewed) Error() string {
	return fmt.Sprintf("instance %s was seen as Measurement[%.16s...], which renews Measurement[%.16s...], at %s by policy version %d",
		e.r.Instance, e.r.New, e.r.Old, time.Unix(e.r.Time, 0).UTC().Format(time.RFC3339), e.r.Policy)
}

// renewalsBy lists what an instance may not go back to from now on, because it
// was seen as this measurement; what is on record already is left out.
func (d *Domain) renewalsBy(instance wire.Hex32, measurement string, now time.Time) []renewal {
	cur := d.current.Load()
	var fresh []renewal
	for _, old := range cur.auth.Renewed(claim.Measurement{Digest: measurement, Instance: instance.String()}, now) {
		b, err := hex.DecodeString(old)
		if err != nil || cur.renewed.refuses(&admission.Identity{Instance: instance, Measurement: b}) != nil {
			continue
		}
		fresh = append(fresh, renewal{d.name, instance, old, measurement, cur.policy.Version(), now.Unix()})
	}
	return fresh
}

// renewalAlert says what keepRenewals is about to do, for the audit log.
func renewalAlert(list []renewal) string {
	var olds []string
	for _, r := range list {
		olds = append(olds, r.Old)
	}
	if len(olds) == 0 {
		return ""
	}
	return fmt.Sprintf("instance %s was seen as %s and may not go back to %s", list[0].Instance, list[0].New, strings.Join(olds, ", "))
}

// keepRenewals puts them on durable record and into force, but for those that a
// policy which came meanwhile states no more. The caller has them in the audit
// log.
func (d *Domain) keepRenewals(ctx context.Context, list []renewal) error {
	rs := d.current.Load().renewed
	rs.mu.Lock()
	defer rs.mu.Unlock()
	auth := d.current.Load().auth // under the lock: enforce has not passed it by
	for _, r := range list {
		if !auth.StillRenews(r.by(), r.Old) {
			continue
		}
		b, err := json.Marshal(&r)
		if err != nil {
			return err
		}
		name := renewalName(r.Instance, r.Old)
		if err := d.st.put(ctx, domainKey(d.name, suffixRenewed+name), b); err != nil {
			return fmt.Errorf("keeping a renewal of %s: %w", d.name, err)
		}
		rs.list[name] = r
	}
	return nil
}

// enforce puts a policy into force and forgets the renewals that it does not
// state any more: its owner's word in a new version, and nothing else, lets an
// instance go back. Both in one, so that keepRenewals adds none in between.
func (d *Domain) enforce(ctx context.Context, next *inForce) error {
	rs := next.renewed
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for name, r := range rs.list {
		if next.auth.StillRenews(r.by(), r.Old) {
			continue
		}
		key := domainKey(d.name, suffixRenewed+name)
		switch _, v, err := d.st.s.Get(ctx, key); {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return fmt.Errorf("forgetting a renewal of %s: %w", d.name, err)
		default:
			if err := d.st.s.Delete(ctx, key, v); err != nil {
				return fmt.Errorf("forgetting a renewal of %s: %w", d.name, err)
			}
		}
		delete(rs.list, name)
	}
	d.current.Store(next)
	return nil
}
