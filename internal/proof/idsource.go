package proof

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// Named is evidence of SEV-SNP and the instance that it is of.
type Named struct {
	*Evidence
	Instance [32]byte
	// NotAfter is when the claim ends that the instance rests on; zero: it rests
	// on none, but on HOST_DATA.
	NotAfter time.Time
}

// FromSNP is the function FromSNP where the policy may say that the image brings
// the instance ID (takes-id-from-image): HOST_DATA must then be zeros, and
// neither does HOST_DATA name an ID that some image brings. The evidence of such
// a VM names no instance: what proves the ID is the measurement. record is the
// ID that an instance's own record says its image brings; nil without one.
//
// Only a claim in force gives an ID. What one refuses, it refuses for as long as
// the policy states it, expired or revoked: time does not make an image's ID the
// host's choice.
func (a *Authorizer) FromSNP(v *appraise.Verified, subject claim.Key, role string, record *[32]byte, now time.Time) (*Named, error) {
	if v == nil {
		return nil, errors.New("evidence of SEV-SNP: no verified report")
	}
	r := v.Report()
	refuse := func(format string, args ...any) (*Named, error) {
		return nil, code.Wrap(code.InstanceSource, fmt.Errorf(format, args...))
	}
	n := &Named{Instance: r.HostData}
	own := func(m claim.Measurement) bool { return m.Digest == hex.EncodeToString(r.Measurement[:]) }
	c, stated := a.imageClaim(now, own)
	if stated != nil {
		id, err := hex.DecodeString(stated.Statement.Clause.Subject.(claim.Measurement).Instance)
		if err != nil || len(id) != 32 {
			return refuse("claim %d: its instance is no ID", stated.Serial)
		}
		if record != nil && *record != [32]byte(id) {
			return refuse("the policy says that this image brings the ID %x, the instance's record says %x", id, *record)
		}
		if c != nil {
			n.Instance, n.NotAfter = [32]byte(id), c.NotAfter
		}
	}
	if c == nil && record != nil {
		n.Instance = *record
	}
	switch {
	case (stated != nil || record != nil) && r.HostData != [32]byte{}:
		return refuse("HOST_DATA is %x, and this image brings its instance ID", r.HostData)
	case c == nil && record == nil && r.HostData == [32]byte{}:
		return nil, code.Wrap(code.IDZero, errors.New("HOST_DATA is zero: this VM is no instance"))
	}
	if _, other := a.imageClaim(now, func(m claim.Measurement) bool { return m.Instance == hex.EncodeToString(r.HostData[:]) }); other != nil {
		return refuse("HOST_DATA is %x, an ID that another image brings", r.HostData)
	}
	var err error
	n.Evidence, err = fromSNP(v, subject, role)
	return n, err
}

// imageClaim is the claim that says which ID an image brings: one in force, and
// one that the policy states, be it in force or not.
func (a *Authorizer) imageClaim(now time.Time, fits func(claim.Measurement) bool) (good, stated *claim.Claim) {
	good, stated = stand(a.p, now).find(func(c claim.Clause) bool {
		m, ok := c.Subject.(claim.Measurement)
		return ok && c.Verb == claim.TakesIDFromImage && fits(m)
	})
	if good != nil {
		stated = good
	}
	return good, stated
}
