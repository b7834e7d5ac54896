package proof

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// ErrNoHardware is a policy without claims about SEV-SNP: no such evidence can
// be accepted under it.
var ErrNoHardware = errors.New("the policy has no claims about SEV-SNP: it trusts no measurement or image of a VM or requires no platform")

// AppraisePolicy is the field appraisal that a policy implies. Where several
// requirements are alternatives it asks what all of them ask, so that it refuses
// nothing that Prove would accept; Prove, which follows, is exact. It looks at
// all claims that are not revoked, whatever their time.
func AppraisePolicy(p *claim.VerifiedPolicy) (*appraise.Policy, error) {
	a := &appraise.Policy{Products: map[snp.Product]appraise.ProductPolicy{}}
	s := stand(p, time.Time{})
	var reqs []claim.Platform
	for _, c := range s.claims {
		cl := c.Statement.Clause
		if c.Revokes() || s.revokes(claim.Serial(c.Serial)) != nil || s.revokes(cl.Subject) != nil {
			continue
		}
		switch x := cl.Subject.(type) {
		case claim.Measurement:
			if cl.Verb == claim.IsTrusted && len(x.Digest) == 96 {
				var m appraise.Hex48
				if _, err := hex.Decode(m[:], []byte(x.Digest)); err != nil {
					return nil, err
				}
				if !slices.Contains(a.Measurements, m) {
					a.Measurements = append(a.Measurements, m)
				}
			}
		case claim.Image:
			if cl.Verb == claim.IsTrusted {
				i, err := identity(x)
				if err != nil {
					return nil, err
				}
				if !slices.Contains(a.Identities, i) {
					a.Identities = append(a.Identities, i)
				}
			}
		case claim.Platform:
			if cl.Verb == claim.HasTrustedPlatformProperty && x.Type == claim.AMDSEVSNP {
				reqs = append(reqs, x)
			}
		}
	}
	if len(reqs) == 0 || len(a.Measurements)+len(a.Identities) == 0 {
		return nil, code.Wrap(code.AppraisalPolicy, ErrNoHardware)
	}
	for _, r := range reqs {
		if err := products(a, r); err != nil {
			return nil, code.Wrap(code.AppraisalPolicy, err)
		}
	}
	if err := fields(a, reqs); err != nil {
		return nil, code.Wrap(code.AppraisalPolicy, err)
	}
	if err := a.Check(); err != nil {
		return nil, code.Wrap(code.AppraisalPolicy, err)
	}
	return a, nil
}

// identity is an image in the words of the appraisal; the instance that narrows
// it is left to Prove.
func identity(i claim.Image) (d appraise.Identity, err error) {
	d.MinSVN = i.MinSVN
	if err := d.IDKey.UnmarshalText([]byte(i.IDKey)); err != nil {
		return d, err
	}
	if err := d.ImageID.UnmarshalText([]byte(i.ImageID)); err != nil {
		return d, err
	}
	if i.FamilyID != "" {
		err = d.FamilyID.UnmarshalText([]byte(i.FamilyID))
	}
	return d, err
}

// products adds the floors of one requirement to those of its products: of
// alternatives the lowest counts.
func products(a *appraise.Policy, r claim.Platform) error {
	floor := func(set string) (f appraise.TCBFloor, err error) {
		for part, to := range map[string]*uint8{"bootloader": &f.BootLoader, "tee": &f.TEE, "snp": &f.SNP, "microcode": &f.Microcode, "fmc": &f.FMC} {
			n := max(least(r, "tcb."+part), least(r, set+"."+part))
			if n > 255 {
				return f, fmt.Errorf("%s.%s: no TCB has a component above 255", set, part)
			}
			*to = uint8(n)
		}
		return f, nil
	}
	var pp appraise.ProductPolicy
	var err error
	if pp.MinReportedTCB, err = floor("reported-tcb"); err != nil {
		return err
	}
	if pp.MinCommittedTCB, err = floor("committed-tcb"); err != nil {
		return err
	}
	if pp.MinLaunchTCB, err = floor("launch-tcb"); err != nil {
		return err
	}
	names, _ := accepted(r, "product")
	for _, name := range names {
		q, known := a.Products[snp.Product(name)]
		if !known {
			q = pp
		}
		q.MinReportedTCB, q.MinCommittedTCB, q.MinLaunchTCB = lower(q.MinReportedTCB, pp.MinReportedTCB), lower(q.MinCommittedTCB, pp.MinCommittedTCB), lower(q.MinLaunchTCB, pp.MinLaunchTCB)
		a.Products[snp.Product(name)] = q
	}
	return nil
}

func lower(a, b appraise.TCBFloor) appraise.TCBFloor {
	return appraise.TCBFloor{FMC: min(a.FMC, b.FMC), BootLoader: min(a.BootLoader, b.BootLoader), TEE: min(a.TEE, b.TEE), SNP: min(a.SNP, b.SNP), Microcode: min(a.Microcode, b.Microcode)}
}

// fields sets what is not by product.
func fields(a *appraise.Policy, reqs []claim.Platform) (err error) {
	var vmpls []uint32
	minSVN := ^uint64(0)
	waive := false
	for _, r := range reqs {
		for n := range uint32(4) {
			if allows(r, "vmpl", strconv.FormatUint(uint64(n), 10), "0") && !slices.Contains(vmpls, n) {
				vmpls = append(vmpls, n)
			}
		}
		waive = waive || allows(r, "alias-check", "no", "yes")
		minSVN = min(minSVN, least(r, "guest-svn"))
	}
	slices.Sort(vmpls)
	if len(vmpls) == 0 {
		return errors.New("vmpl: no level from 0 to 3 is accepted")
	}
	a.VMPLs, a.WaiveAliasCheck, a.MinGuestSVN = vmpls, waive, uint32(minSVN)
	vcek, vlek := 0, 0
	for _, r := range reqs {
		if allows(r, "signing-key", "vcek", "vcek") {
			vcek++
		}
		if allows(r, "signing-key", "vlek", "vcek") {
			vlek++
		}
	}
	switch {
	case vlek > 0 && vcek > 0:
		return errors.New("signing-key: one policy accepts VCEK or VLEK, not both")
	case vlek > 0:
		a.SigningKey = "vlek"
		a.CSPIDs, _ = everywhere(reqs, "csp")
	}
	if chips, ok := everywhere(reqs, "chip"); ok {
		a.Chips = make([]appraise.ChipID, len(chips))
		for i, c := range chips {
			if err = a.Chips[i].UnmarshalText([]byte(c)); err != nil {
				return fmt.Errorf("chip: %w", err)
			}
		}
	}
	for name, to := range map[string]*[]appraise.Hex48{"id-key-digest": &a.IDKeyDigests, "author-key-digest": &a.AuthorKeyDigests} {
		list, _ := everywhere(reqs, name)
		for _, v := range list {
			var h appraise.Hex48
			if err = h.UnmarshalText([]byte(v)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*to = append(*to, h)
		}
	}
	for name, to := range map[string]**appraise.Hex16{"family-id": &a.FamilyID, "image-id": &a.ImageID} {
		if list, ok := everywhere(reqs, name); ok && len(list) == 1 {
			*to = new(appraise.Hex16)
			if err = (*to).UnmarshalText([]byte(list[0])); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// least is the smallest number that a requirement accepts of a property.
func least(r claim.Platform, name string) uint64 {
	n := uint64(0)
	for _, q := range r.Props {
		if q.Name == name && q.Op != claim.Le {
			v, _ := strconv.ParseUint(q.Values[0], 10, 32) // sorted: the first is the smallest
			n = max(n, v)
		}
	}
	return n
}

// allows says whether a requirement accepts a value; where it does not speak of
// the property, only the default is.
func allows(r claim.Platform, name, value, unspoken string) bool {
	spoken := false
	for _, q := range r.Props {
		if q.Name == name {
			spoken = true
			if !q.Satisfied(value) {
				return false
			}
		}
	}
	return spoken || value == unspoken
}

// accepted lists the values of a property that a requirement names.
func accepted(r claim.Platform, name string) (list []string, ok bool) {
	for _, q := range r.Props {
		if q.Name == name && (q.Op == claim.Eq || q.Op == claim.In) {
			return q.Values, true
		}
	}
	return nil, false
}

// everywhere is all values of a property, if every requirement names some.
func everywhere(reqs []claim.Platform, name string) (list []string, ok bool) {
	for _, r := range reqs {
		v, ok := accepted(r, name)
		if !ok {
			return nil, false
		}
		for _, x := range v {
			if !slices.Contains(list, x) {
				list = append(list, x)
			}
		}
	}
	return list, true
}

// Roots makes the roots of a policy: each trusted key's certificate is the one
// that the policy declares, or one of builtin (AMD's) with that key. Other
// declared certificates that a root has signed serve it as intermediates, for
// evidence that brings none.
func Roots(p *claim.VerifiedPolicy, builtin *appraise.Roots) (*appraise.Roots, error) {
	certs := map[string][]byte{}
	for _, d := range p.Keys() {
		if d.Cert != nil {
			certs[d.Key.ID] = d.Cert
		}
	}
	s := stand(p, time.Time{})
	var roots []*appraise.Root
	done := map[string]bool{}
	for _, c := range s.claims {
		cl := c.Statement.Clause
		k, ok := cl.Subject.(claim.Key)
		pf, ok2 := cl.Object.(claim.Platform)
		if !ok || !ok2 || cl.Verb != claim.IsTrustedForAttestation || pf.Type != claim.AMDSEVSNP || s.revokes(k) != nil || s.revokes(claim.Serial(c.Serial)) != nil {
			continue
		}
		name := pf.Props[0].Values[0]
		if done[k.ID+name] {
			continue
		}
		done[k.ID+name] = true
		root, err := rootOfKey(k, snp.Product(name), certs, builtin)
		if err != nil {
			return nil, code.Wrap(code.AppraisalPolicy, err)
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, code.Wrap(code.AppraisalPolicy, ErrNoHardware)
	}
	set, err := appraise.NewRoots(roots...)
	return set, code.Wrap(code.AppraisalPolicy, err)
}

func rootOfKey(k claim.Key, product snp.Product, certs map[string][]byte, builtin *appraise.Roots) (*appraise.Root, error) {
	for _, r := range builtin.List() {
		have, err := claim.KeyOfSPKI("ARK", r.SPKI())
		if err == nil && have.Same(k) && r.Product() == product {
			return r, nil
		}
	}
	cert := certs[k.ID]
	if cert == nil {
		return nil, fmt.Errorf("root %s: the policy declares no certificate of it, and it is none of AMD's: policy trust-root FILE", strings.TrimSpace(k.Name))
	}
	var asks [][]byte
	for id, der := range certs {
		if _, err := appraise.NewRoot(product, cert, der); err == nil && id != k.ID {
			asks = append(asks, der)
		}
	}
	return appraise.NewRoot(product, cert, asks...)
}
