package proof

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"attestbox/internal/claim"
)

// clone copies a proof so that it can be damaged.
func clone(p *Proof) *Proof {
	q := *p
	q.steps = slices.Clone(p.steps)
	for i := range q.steps {
		q.steps[i].Premises = slices.Clone(q.steps[i].Premises)
	}
	return &q
}

// The checker refuses every proof that differs from one that holds.
func TestCheckRefuses(t *testing.T) {
	serve := web.String() + ` is-trusted-for-serving Role["key-server"]`
	p := policy(t, trustWeb, trustRoot, require, serve, trustProgram, trustDeploy, trustAttester, trustIssuer, trustImage, site.String()+` is-trusted-for-serving Role["key-server"]`)
	for name, e := range map[string]*Evidence{"hardware": hardware(), "image": hardware(signed), "image, serving": hardware(signed, role("key-server")), "serving": hardware(role("key-server")), "attester": hardware(role(RoleAttester)), "enclave": enclave(), "program": attested(),
		"launch": hardware(func(e *Evidence) { e.subject = claim.Key{} })} {
		good, err := Prove(p, e, now)
		if err != nil {
			t.Fatal(err)
		}
		refuse := func(what string, q *Proof) {
			t.Helper()
			if Check(p, e, q, now) == nil {
				t.Errorf("%s: %s: accepted\n%s", name, what, q)
			}
		}
		for i := range good.steps {
			q := clone(good)
			q.steps = slices.Delete(q.steps, i, i+1)
			refuse("a step removed", q)
			for _, rule := range []int{0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11} {
				if rule != good.steps[i].Rule && (rule != 3 || good.steps[i].Rule != 5) { // rule 3 says all that rule 5 says of the policy key
					q = clone(good)
					q.steps[i].Rule = rule
					refuse("another rule", q)
				}
			}
			for j := range good.steps {
				if good.steps[j].Conclusion.String() != good.steps[i].Conclusion.String() {
					q = clone(good)
					q.steps[i].Conclusion = good.steps[j].Conclusion
					refuse("another conclusion", q)
				}
			}
			for k := range good.steps[i].Premises {
				q = clone(good)
				q.steps[i].Premises = slices.Delete(q.steps[i].Premises, k, k+1)
				refuse("a premise removed", q)
				for _, source := range []string{SourcePolicyKey, SourceClaim, SourceSigned, SourceEvidence, SourceStep, ""} {
					if source != good.steps[i].Premises[k].Source {
						q = clone(good)
						q.steps[i].Premises[k].Source = source
						refuse("another source, "+source, q)
					}
				}
				q = clone(good)
				q.steps[i].Premises[k].Statement = claim.Statement{Clause: claim.Clause{Subject: auth, Verb: claim.IsTrusted}}
				refuse("an invented premise", q)
			}
		}
		q := clone(good)
		q.version++
		refuse("another policy version", q)
		q = clone(good)
		q.goal.Subject = deploy
		refuse("another goal", q)
		refuse("nothing", &Proof{domain: good.domain, version: good.version})
		if Check(p, e, good, now.Add(91*24*time.Hour)) == nil {
			t.Errorf("%s: accepted after its claims ended", name)
		}
		if Check(policy(t, trustWeb, trustRoot, require, auth.String()+" is-revoked"), e, good, now) == nil && e.platform == claim.AMDSEVSNP && !e.subject.IsZero() {
			t.Errorf("%s: accepted although its subject is revoked", name)
		}
		for _, other := range []*Evidence{hardware(prop("tcb.snp", "24")), hardware(func(e *Evidence) { e.measurement.Instance = hexOf(7, 32) }), hardware(func(e *Evidence) { e.subject = deploy }), enclave(func(e *Evidence) { e.subject = deploy })} {
			if Check(p, other, good, now) == nil {
				t.Errorf("%s: accepted for other evidence", name)
			}
		}
	}
}

// What Check must not let through although each step looks right: raw evidence
// where something proved is needed.
func TestCheckWantsRule6(t *testing.T) {
	p := policy(t, trustProgram, trustDeploy)
	e := enclave(func(e *Evidence) { e.attester = key(claim.Ed25519, "deploy", 0x99) }) // nobody trusts this key
	trusted := claim.Clause{Subject: program, Verb: claim.IsTrusted}
	top := Premise{Statement: claim.Statement{Clause: claim.Clause{Subject: p.PolicyKey(), Verb: claim.IsTrusted}}, Source: SourcePolicyKey}
	said := Premise{Statement: p.Claims()[0].Statement, Source: SourceClaim, Claim: p.Claims()[0].Serial}
	speaks := evident(e.attester, claim.Clause{Subject: auth, Verb: claim.SpeaksFor, Object: program})
	goal := claim.Clause{Subject: auth, Verb: claim.IsTrustedForAuthentication}
	forged := &Proof{domain: p.Domain(), version: p.Version(), e: e, goal: goal, steps: []Step{
		{Premises: []Premise{top, said}, Rule: 3, Conclusion: trusted},
		{Premises: []Premise{{Statement: claim.Statement{Clause: trusted}, Source: SourceStep, Step: 1}, speaks}, Rule: 1, Conclusion: goal},
	}}
	if err := Check(p, e, forged, now); err == nil || !strings.Contains(err.Error(), "rests on") {
		t.Errorf("forged: %v", err)
	}
}

// Random policies and evidence: there is a proof exactly where every premise is
// there, in force and not revoked, and every proof checks (Prove asks Check).
func TestRandomPolicies(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	proved := 0
	for range 400 {
		lines, good := []string{}, true
		add := func(line string) { // a premise that is needed
			switch n := r.IntN(20); n {
			case 0:
				good = false
			case 1:
				good = false
				lines = append(lines, line+"; claim "+[]string{"50", "51", "52", "53", "54"}[len(lines)%5]+" from 2025-01-01 to 2025-02-01")
			default:
				lines = append(lines, line)
			}
		}
		noise := []string{
			claim.Measurement{Digest: hexOf(0xee, 48)}.String() + " is-trusted",
			web.String() + ` may-read Secret["*"]`,
			deploy.String() + " is-trusted-for-certification",
			web.String() + " with-instance[" + hexOf(8, 32) + "] is-revoked",
			program.String() + " is-trusted-for-attestation",
			"Key[ed25519, other, " + hexOf(0xef, 32) + "] is-revoked",
		}
		hw := r.IntN(3) > 0
		var e *Evidence
		if hw {
			e = hardware()
			add(trustWeb)
			add(trustRoot)
			add(require)
			switch r.IntN(12) {
			case 0:
				prop("tcb.snp", "3")(e)
				good = false
			case 1:
				prop("debug", "yes")(e)
				good = false
			case 2:
				prop([]string{"vmpl", "debug", "tcb.snp", "product", "alias-check", "migrate", "signing-key"}[r.IntN(7)], "")(e)
				good = false
			}
			if r.IntN(3) == 0 {
				e.role = "key-server"
				add(web.String() + ` is-trusted-for-serving Role["key-server"]`)
			}
		} else {
			e = enclave()
			add(trustProgram)
			add(trustDeploy)
		}
		if r.IntN(8) == 0 {
			good = false
			list := []claim.Entity{e.attester, e.measurement, e.subject}
			if hw {
				list = append(list, ark, ask, claim.Chip{ID: chip}, claim.Measurement{Digest: web.Digest})
			}
			lines = append(lines, list[r.IntN(len(list))].String()+" is-revoked")
		}
		for range r.IntN(4) {
			lines = append(lines, noise[r.IntN(len(noise))])
		}
		r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		p := policy(t, lines...)
		proof, err := Prove(p, e, now)
		if (err == nil) != good {
			t.Fatalf("proved %v, want %v: %v\n%s\n%v", err == nil, good, err, strings.Join(lines, "\n"), proof)
		}
		if err == nil {
			proved++
		}
	}
	if proved < 50 || proved > 350 {
		t.Errorf("%d of 400 proved: the generator does not try both", proved)
	}
}
