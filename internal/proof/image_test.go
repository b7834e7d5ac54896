package proof

import (
	"strings"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/claim"
	"attestbox/internal/code"
)

// An image, and the claim that trusts it in place of any measurement.
var (
	site       = claim.Image{IDKey: hexOf(0x1d, 48), ImageID: hexOf(0x77, 16), MinSVN: 3}
	trustImage = site.String() + " is-trusted"
	unlisted   = hexOf(0xa7, 48) // a digest that no claim names
)

// signed makes evidence of a launch that the owner of site's key signed as
// version 4; its digest is not listed.
func signed(e *Evidence) {
	e.measurement.Digest = unlisted
	for name, v := range map[string]string{"id-key-digest": site.IDKey, "image-id": site.ImageID, "family-id": hexOf(0xfa, 16), "guest-svn": "4"} {
		prop(name, v)(e)
	}
}

// The proof of a launch that is trusted as an image rests on what the chip's key
// says of its ID block.
func TestImage(t *testing.T) {
	family := site
	family.FamilyID = hexOf(0xfa, 16)
	narrowed := site
	narrowed.Instance = inst
	for name, i := range map[string]claim.Image{"image": site, "with family": family, "narrowed": narrowed} {
		proof, err := Prove(policy(t, i.String()+" is-trusted", trustRoot, require), hardware(signed), now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s := proof.String()
		for _, want := range []string{"says " + i.String() + " is-trusted, imply via rule 3", "guest-svn = 4, id-key-digest = " + site.IDKey + ", image-id = " + site.ImageID, "is-environment and Image[id-key: 1d1d1d1d1d1d..."} {
			if !strings.Contains(s, want) {
				t.Errorf("%s: no %q in\n%s", name, want, s)
			}
		}
	}
	// A measurement that is listed needs no image, and its proof names none.
	proof, err := Prove(policy(t, trustImage, trustWeb, trustRoot, require), hardware(signed, func(e *Evidence) { e.measurement.Digest = web.Digest }), now)
	if err != nil || strings.Contains(proof.String(), "Image[") {
		t.Errorf("%v\n%v", err, proof)
	}
	serve := site.String() + ` is-trusted-for-serving Role["key-server"]`
	if _, err := Prove(policy(t, trustImage, trustRoot, require, serve), hardware(signed, role("key-server")), now); err != nil {
		t.Error(err)
	}
}

func TestImageRefused(t *testing.T) {
	family := site
	family.FamilyID = hexOf(0xfb, 16)
	narrowed := site
	narrowed.Instance = hexOf(9, 32)
	all := []string{trustImage, trustRoot, require}
	for _, tc := range []struct {
		name  string
		lines []string
		e     *Evidence
		want  code.Code
	}{
		{"another ID key", all, hardware(signed, prop("id-key-digest", hexOf(0x1e, 48))), code.ProofMeasurement},
		{"another image ID", all, hardware(signed, prop("image-id", hexOf(0x78, 16))), code.ProofMeasurement},
		{"an older version", all, hardware(signed, prop("guest-svn", "2")), code.ProofMeasurement},
		{"a version that is no number", all, hardware(signed, prop("guest-svn", "4x")), code.ProofMeasurement},
		{"no version", all, hardware(signed, prop("guest-svn", "")), code.ProofMeasurement},
		{"no ID block", all, hardware(func(e *Evidence) { e.measurement.Digest = unlisted }), code.ProofMeasurement},
		{"image ID without a key", all, hardware(signed, prop("id-key-digest", "")), code.ProofMeasurement},
		{"key without image ID", all, hardware(signed, prop("image-id", "")), code.ProofMeasurement},
		{"another family", []string{family.String() + " is-trusted", trustRoot, require}, hardware(signed), code.ProofMeasurement},
		{"no family", []string{family.String() + " is-trusted", trustRoot, require}, hardware(signed, prop("family-id", "")), code.ProofMeasurement},
		{"narrowed to another instance", []string{narrowed.String() + " is-trusted", trustRoot, require}, hardware(signed), code.ProofMeasurement},
		{"a program's measurement", all, hardware(signed, func(e *Evidence) { e.measurement.Digest = program.Digest }), code.ProofMeasurement},
		{"a simulated enclave", []string{trustImage, trustDeploy}, enclave(func(e *Evidence) { e.props = map[string]string{} }, signed), code.ProofMeasurement},
		{"a debug guest", all, hardware(signed, prop("debug", "yes")), code.ProofPlatform},
		{"the digest is revoked", append(all, claim.Measurement{Digest: unlisted}.String()+" is-revoked"), hardware(signed), code.ClaimRevoked},
		{"the claim expired", []string{trustRoot, require, trustImage + "; claim 5 from 2025-01-01 to 2025-02-01"}, hardware(signed), code.ClaimExpired},
		{"the claim is revoked", []string{trustRoot, require, trustImage + "; claim 5 from 2026-01-01 to 2026-02-01", "Claim[5] is-revoked"}, hardware(signed), code.ClaimRevoked},
		{"serving is not granted", all, hardware(signed, role("key-server")), code.ProofRole},
		{"serving from a later version on", append(all, strings.Replace(site.String(), "svn >= 3", "svn >= 5", 1)+` is-trusted-for-serving Role["key-server"]`), hardware(signed, role("key-server")), code.ProofRole},
		{"an attester is named by measurement", all, hardware(signed, role(RoleAttester)), code.ProofRole},
		{"a program in a VM that is trusted as an image", []string{trustImage, trustProgram, trustIssuer, trustAttester}, attested(), code.ProofMeasurement},
	} {
		proof, err := Prove(policy(t, tc.lines...), tc.e, now)
		if proof != nil {
			t.Errorf("%s: proved:\n%s", tc.name, proof)
		}
		wantCode(t, tc.name, err, tc.want)
	}
}

// Rule 9 for images, and everything near that it must refuse.
func TestImageRule(t *testing.T) {
	c := func(s string) claim.Clause { return clause(t, s) }
	at := claim.Measurement{Digest: unlisted, Instance: inst}.String()
	env := func(props, m string) string { return "Environment[Platform[amd-sev-snp, " + props + "], " + m + "]" }
	states := "guest-svn = 4, id-key-digest = " + site.IDKey + ", image-id = " + site.ImageID
	conclude := " environment-measurement-is-trusted"
	r9 := func(e, trusted string) error { return R9(c(e+" is-environment"), c(trusted), c(e+conclude)) }
	narrowed, family := site, site
	narrowed.Instance, family.FamilyID = inst, hexOf(0xfa, 16)
	elsewhere := site
	elsewhere.Instance = hexOf(9, 32)
	for _, tc := range []struct {
		name string
		ok   bool
		err  error
	}{
		{"as stated", true, r9(env(states, at), trustImage)},
		{"narrowed", true, r9(env(states, at), narrowed.String()+" is-trusted")},
		{"with family", true, r9(env("family-id = "+hexOf(0xfa, 16)+", "+states, at), family.String()+" is-trusted")},
		{"family not stated", false, r9(env(states, at), family.String()+" is-trusted")},
		{"another instance", false, r9(env(states, at), elsewhere.String()+" is-trusted")},
		{"older", false, r9(env(strings.Replace(states, "= 4", "= 2", 1), at), trustImage)},
		{"a bound is no statement", false, r9(env(strings.Replace(states, "guest-svn = 4", "guest-svn >= 4", 1), at), trustImage)},
		{"another key", false, r9(env(strings.Replace(states, site.IDKey, hexOf(0x1e, 48), 1), at), trustImage)},
		{"nothing stated", false, r9(env("debug: no", at), trustImage)},
		{"SVN not stated", false, r9(env("id-key-digest = "+site.IDKey+", image-id = "+site.ImageID, at), trustImage)},
		{"a program", false, r9(env(states, program.String()), trustImage)},
		{"another verb", false, r9(env(states, at), site.String()+" may-nominate")},
		{"not shown", false, R9(c(env(states, at)+" is-trusted"), c(trustImage), c(env(states, at)+conclude))},
		{"another conclusion", false, R9(c(env(states, at)+" is-environment"), c(trustImage), c(env(states, web.String())+conclude))},
		{"R1 for an image", false, R1(c(trustImage), c(auth.String()+" speaks-for "+at), c(auth.String()+" is-trusted-for-authentication"))},
	} {
		if (tc.err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, tc.err)
		}
	}
}

// The checker reads the report's own properties, whatever a step claims.
func TestCheckImage(t *testing.T) {
	p := policy(t, trustImage, trustRoot, require)
	e := hardware(signed)
	good, err := Prove(p, e, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*Evidence{
		"older": hardware(signed, prop("guest-svn", "2")), "another version": hardware(signed, prop("guest-svn", "5")), "another key": hardware(signed, prop("id-key-digest", hexOf(0x1e, 48))),
		"another image": hardware(signed, prop("image-id", hexOf(0x78, 16))), "no ID block": hardware(signed, prop("id-key-digest", ""), prop("image-id", ""), prop("guest-svn", "0")),
		"another digest": hardware(signed, func(e *Evidence) { e.measurement.Digest = hexOf(0xa8, 48) }),
	} {
		if Check(p, other, good, now) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// An environment that does not state the ID block supports no image.
	silent := claim.Environment{Platform: e.facts(clause(t, require).Subject.(claim.Platform), web), Measurement: e.measurement}
	swap := func(c claim.Clause) claim.Clause {
		if _, ok := c.Subject.(claim.Environment); ok {
			c.Subject = silent
		}
		if _, ok := c.Object.(claim.Environment); ok {
			c.Object = silent
		}
		return c
	}
	q := clone(good)
	q.goal = swap(q.goal)
	for i := range q.steps {
		q.steps[i].Conclusion = swap(q.steps[i].Conclusion)
		for j := range q.steps[i].Premises {
			q.steps[i].Premises[j].Statement.Clause = swap(q.steps[i].Premises[j].Statement.Clause)
		}
	}
	if err := Check(p, e, q, now); err == nil || !strings.Contains(err.Error(), "rule 9") {
		t.Errorf("an environment that does not state its ID block: %v", err)
	}
}

func TestImageAuthorizer(t *testing.T) {
	launch := claim.Launched{Measurement: claim.Measurement{Digest: unlisted, Instance: inst}, IDKey: site.IDKey, ImageID: site.ImageID, SVN: 4}
	edit := func(f func(*claim.Launched)) claim.Launched { l := launch; f(&l); return l }
	older, next := edit(func(l *claim.Launched) { l.SVN = 2 }), edit(func(l *claim.Launched) { l.Measurement.Digest, l.SVN = hexOf(0xa9, 48), 5 })
	later := strings.Replace(site.String(), "svn >= 3", "svn >= 5", 1)
	a := NewAuthorizer(policy(t, trustImage, trustWeb,
		site.String()+` may-read Secret["db/*"]`, later+` may-write Secret["db/*"]`, site.String()+" may-succeed "+site.String(),
		site.String()+" may-succeed "+web.String(), later+" may-nominate", site.String()+` is-trusted-for-serving Role["key-server"]`))
	for _, tc := range []struct {
		name string
		want bool
		f    func() (uint64, bool)
	}{
		{"trusted", true, func() (uint64, bool) { return a.Trusted(launch, now) }},
		{"an older version", false, func() (uint64, bool) { return a.Trusted(older, now) }},
		{"without an ID block", false, func() (uint64, bool) { return a.Trusted(as(launch.Measurement), now) }},
		{"read", true, func() (uint64, bool) { return a.MayRead(launch, "db/password", now) }},
		{"read elsewhere", false, func() (uint64, bool) { return a.MayRead(launch, "web/key", now) }},
		{"read, older", false, func() (uint64, bool) { return a.MayRead(older, "db/password", now) }},
		{"read, another key", false, func() (uint64, bool) {
			return a.MayRead(edit(func(l *claim.Launched) { l.IDKey = hexOf(0x1e, 48) }), "db/password", now)
		}},
		{"read, another image", false, func() (uint64, bool) {
			return a.MayRead(edit(func(l *claim.Launched) { l.ImageID = hexOf(0x78, 16) }), "db/password", now)
		}},
		{"read, by a listed measurement", false, func() (uint64, bool) { return a.MayRead(as(web), "db/password", now) }},
		{"write from a later version on", false, func() (uint64, bool) { return a.MayWrite(launch, "db/password", now) }},
		{"write, later version", true, func() (uint64, bool) { return a.MayWrite(next, "db/password", now) }},
		{"succeed its own image", true, func() (uint64, bool) { return a.MaySucceed(next, launch, now) }},
		{"succeed a measurement", true, func() (uint64, bool) { return a.MaySucceed(next, as(web), now) }},
		{"succeed an unknown launch", false, func() (uint64, bool) { return a.MaySucceed(next, as(launch.Measurement), now) }},
		{"succeed what was too old", false, func() (uint64, bool) { return a.MaySucceed(next, older, now) }},
		{"a listed measurement succeeds nothing", false, func() (uint64, bool) { return a.MaySucceed(as(web), launch, now) }},
		{"nominate", true, func() (uint64, bool) { return a.MayNominate(next, now) }},
		{"nominate, earlier version", false, func() (uint64, bool) { return a.MayNominate(launch, now) }},
		{"serve", true, func() (uint64, bool) { return a.ServingMeasurement(launch, "key-server", now) }},
		{"serve, older", false, func() (uint64, bool) { return a.ServingMeasurement(older, "key-server", now) }},
	} {
		if _, ok := tc.f(); ok != tc.want {
			t.Errorf("%s: %v", tc.name, ok)
		}
	}
	b := NewAuthorizer(policy(t, trustImage, site.String()+` may-read Secret["db/*"]`, claim.Measurement{Digest: unlisted}.String()+" is-revoked"))
	if _, ok := b.MayRead(launch, "db/password", now); ok {
		t.Error("a revoked digest reads, because it is signed")
	}
}

func TestImageAppraisePolicy(t *testing.T) {
	family := site
	family.FamilyID, family.MinSVN = hexOf(0xfa, 16), 9
	p := must(AppraisePolicy(policy(t, trustImage, trustImage, family.String()+" is-trusted", require)))
	if len(p.Measurements) != 0 || len(p.Identities) != 2 || p.Identities[0] != (appraise.Identity{IDKey: [48]byte([]byte(strings.Repeat("\x1d", 48))), ImageID: [16]byte([]byte(strings.Repeat("\x77", 16))), MinSVN: 3}) {
		t.Errorf("%+v", p)
	}
	if p.Identities[1].MinSVN != 9 || p.Identities[1].FamilyID == (appraise.Hex16{}) {
		t.Errorf("%+v", p.Identities[1])
	}
	_, err := AppraisePolicy(policy(t, trustImage+"; claim 5 from 2026-01-01 to 2026-02-01", require, "Claim[5] is-revoked"))
	wantCode(t, "revoked", err, code.AppraisalPolicy)
}

// A proof that rests on a claim about another image, to trust the launch or to
// let it serve, is refused by the checker, although the claim is there and every
// step has its form.
func TestCheckAnotherImage(t *testing.T) {
	serves := ` is-trusted-for-serving Role["key-server"]`
	e := hardware(signed, role("key-server"))
	for name, edit := range map[string]func(*claim.Image){
		"another key":        func(i *claim.Image) { i.IDKey = hexOf(0x1e, 48) },
		"another image":      func(i *claim.Image) { i.ImageID = hexOf(0x78, 16) },
		"another family":     func(i *claim.Image) { i.FamilyID = hexOf(0xfb, 16) },
		"a later version":    func(i *claim.Image) { i.MinSVN = 5 },
		"another instance":   func(i *claim.Image) { i.Instance = hexOf(9, 32) },
		"the one that holds": func(*claim.Image) {},
	} {
		other := site
		edit(&other)
		p := policy(t, trustImage, site.String()+serves, other.String()+" is-trusted", other.String()+serves, trustRoot, require)
		good, err := Prove(p, e, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range []claim.Verb{claim.IsTrusted, claim.IsTrustedForServing} {
			var said *claim.Claim
			for _, c := range p.Claims() {
				if cl := c.Statement.Clause; cl.Subject.String() == other.String() && cl.Verb == verb {
					said = &c
				}
			}
			about := func(c claim.Clause) bool { _, ok := c.Subject.(claim.Image); return ok && c.Verb == verb }
			q := clone(good)
			for i := range q.steps {
				if about(q.steps[i].Conclusion) {
					q.steps[i].Conclusion = said.Statement.Clause
				}
				for j, pr := range q.steps[i].Premises {
					switch {
					case !about(pr.Statement.Clause):
					case pr.Source == SourceClaim:
						q.steps[i].Premises[j] = fromClaim(said)
					default:
						q.steps[i].Premises[j].Statement.Clause = said.Statement.Clause
					}
				}
			}
			if err := Check(p, e, q, now); (err == nil) != (other == site) {
				t.Errorf("%s, %s: %v", name, verb, err)
			}
		}
	}
}
