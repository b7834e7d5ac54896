package proof

import (
	"errors"
	"fmt"

	"attestbox/internal/claim"
)

// The rules. Each says by its error whether the conclusion does not follow from
// the premises.

// R1: a measurement or environment is-trusted, a key speaks-for it: the key
// is-trusted-for-authentication.
func R1(trusted, speaks, conclusion claim.Clause) error {
	if err := vouched(trusted, speaks); err != nil {
		return fmt.Errorf("rule 1: %w", err)
	}
	return follows(1, conclusion, claim.Clause{Subject: speaks.Subject, Verb: claim.IsTrustedForAuthentication})
}

func vouched(trusted, speaks claim.Clause) error {
	switch {
	case trusted.Verb != claim.IsTrusted || trusted.Object != nil:
		return errors.New("the first premise is not X is-trusted")
	case speaks.Verb != claim.SpeaksFor || speaks.Object == nil:
		return errors.New("the second premise is not Key speaks-for X")
	}
	switch x := trusted.Subject.(type) {
	case claim.Environment:
		if speaks.Object.String() == x.String() {
			return nil
		}
	case claim.Measurement:
		if m, ok := speaks.Object.(claim.Measurement); ok && x.Covers(m) {
			return nil
		}
	}
	return errors.New("the key speaks for something else than what is trusted")
}

// R3: a key is-trusted, the key says S: S.
func R3(trusted claim.Clause, said claim.Statement, conclusion claim.Clause) error {
	k, ok := trusted.Subject.(claim.Key)
	if !ok || trusted.Verb != claim.IsTrusted || trusted.Object != nil || said.Speaker.IsZero() || k != said.Speaker {
		return errors.New("rule 3: the premises are not Key is-trusted, and what the same key says")
	}
	return follows(3, conclusion, said.Clause)
}

// R5: key1 V1, key1 says key2 V2, V1 dominates V2: key2 V2. Trust for
// attestation is handed on with its platform unchanged, and on amd-sev-snp
// alone.
func R5(trusted claim.Clause, said claim.Statement, conclusion claim.Clause) error {
	k, ok := trusted.Subject.(claim.Key)
	_, aboutKey := said.Clause.Subject.(claim.Key)
	if !ok || !aboutKey || said.Speaker.IsZero() || k != said.Speaker {
		return errors.New("rule 5: the premises are not Key1 V1, and Key1 says Key2 V2")
	}
	if !Dominates(trusted.Verb, said.Clause.Verb) {
		return fmt.Errorf("rule 5: %s does not dominate %s", trusted.Verb, said.Clause.Verb)
	}
	if trusted.Verb == claim.IsTrustedForAttestation {
		p, ok := trusted.Object.(claim.Platform)
		if !ok || p.Type != claim.AMDSEVSNP || said.Clause.Object == nil || said.Clause.Object.String() != p.String() || len(said.Clause.About) > 0 {
			return errors.New("rule 5: trust for attestation is handed on for the same hardware platform only")
		}
	}
	return follows(5, conclusion, said.Clause)
}

// Dominates says whether trust for v1 includes trust for v2. is-trusted reaches
// neither certification nor serving; certification reaches authentication, so
// that an issuer can admit keys.
func Dominates(v1, v2 claim.Verb) bool {
	switch v1 {
	case claim.IsTrusted:
		return v2 == claim.IsTrustedForAttestation || v2 == claim.IsTrustedForAuthentication
	case claim.IsTrustedForAttestation:
		return v2 == claim.IsTrustedForAttestation
	case claim.IsTrustedForCertification:
		return v2 == claim.IsTrustedForAuthentication
	}
	return false
}

// R6: key1 is-trusted-for-attestation, key1 says (key2 speaks-for X, or E
// is-environment): that clause. Within key1's scope alone: a hardware platform's
// key says it of environments of its platform and product, a simulated enclave's
// key of the measurements that it is trusted about. A key that is trusted on no
// platform (rule 7) says it of programs on an instance, and so does, of any
// measurement with its instance, a key that is-trusted-for-certification.
func R6(trusted claim.Clause, said claim.Statement, conclusion claim.Clause) error {
	k, ok := trusted.Subject.(claim.Key)
	if m, of := said.Clause.Object.(claim.Measurement); ok && of && trusted.Object == nil && len(trusted.About) == 0 && !said.Speaker.IsZero() && k == said.Speaker {
		_, aboutKey := said.Clause.Subject.(claim.Key)
		may := trusted.Verb == claim.IsTrustedForCertification || trusted.Verb == claim.IsTrustedForAttestation && len(m.Digest) == 64
		if may && aboutKey && said.Clause.Verb == claim.SpeaksFor && m.Instance != "" {
			return follows(6, conclusion, said.Clause)
		}
	}
	scope, scoped := trusted.Object.(claim.Platform)
	if !ok || !scoped || trusted.Verb != claim.IsTrustedForAttestation || said.Speaker.IsZero() || k != said.Speaker {
		return errors.New("rule 6: the premises are not Key is-trusted-for-attestation on a platform, and what the same key says")
	}
	var about claim.Entity
	switch said.Clause.Verb {
	case claim.IsEnvironment:
		about = said.Clause.Subject
	case claim.SpeaksFor:
		about = said.Clause.Object
	}
	switch x := about.(type) {
	case claim.Environment:
		if scope.Type == claim.AMDSEVSNP && x.Platform.Type == scope.Type && len(scope.Props) == 1 && has(x.Platform, scope.Props[0]) {
			return follows(6, conclusion, said.Clause)
		}
	case claim.Measurement:
		if scope.Type == claim.SimulatedEnclave && covers(trusted.About, x) {
			return follows(6, conclusion, said.Clause)
		}
	}
	return errors.New("rule 6: the key is not trusted to attest this")
}

func covers(list []claim.Measurement, m claim.Measurement) bool {
	for _, x := range list {
		if x.Covers(m) {
			return true
		}
	}
	return false
}

// R7: as R1, and the measurement is-trusted-for-attestation, which only policy
// says: the key is-trusted-for-attestation, without a platform: it attests to
// programs and to no machine.
func R7(trusted, speaks, granted, conclusion claim.Clause) error {
	if err := vouched(trusted, speaks); err != nil {
		return fmt.Errorf("rule 7: %w", err)
	}
	m, ok := granted.Subject.(claim.Measurement)
	if !ok || granted.Verb != claim.IsTrustedForAttestation || !m.Covers(measurementOf(speaks.Object)) {
		return errors.New("rule 7: the third premise is not that this measurement is-trusted-for-attestation")
	}
	return follows(7, conclusion, claim.Clause{Subject: speaks.Subject, Verb: claim.IsTrustedForAttestation})
}

func measurementOf(x claim.Entity) claim.Measurement {
	switch x := x.(type) {
	case claim.Environment:
		return x.Measurement
	case claim.Measurement:
		return x
	}
	return claim.Measurement{}
}

// R8: E is-environment, a platform with properties has-trusted-platform-property,
// E's platform satisfies every one and every default: E
// environment-platform-is-trusted.
func R8(env, required, conclusion claim.Clause) error {
	e, ok := env.Subject.(claim.Environment)
	want, ok2 := required.Subject.(claim.Platform)
	if !ok || !ok2 || env.Verb != claim.IsEnvironment || required.Verb != claim.HasTrustedPlatformProperty {
		return errors.New("rule 8: the premises are not E is-environment, and Platform has-trusted-platform-property")
	}
	if e.Platform.Type != want.Type {
		return fmt.Errorf("rule 8: platform %s, want %s", e.Platform.Type, want.Type)
	}
	for _, p := range Effective(want) {
		if !has(e.Platform, p) {
			return fmt.Errorf("rule 8: the platform does not have %s", p)
		}
	}
	return follows(8, conclusion, claim.Clause{Subject: e, Verb: claim.EnvironmentPlatformIsTrusted})
}

// defaults are required of SEV-SNP wherever policy does not speak of the
// property itself (DESIGN section 8).
var defaults = []claim.Prop{
	{Name: "debug", Op: claim.Is, Values: []string{"no"}},
	{Name: "migrate", Op: claim.Is, Values: []string{"no"}},
	{Name: "vmpl", Op: claim.Eq, Values: []string{"0"}},
	{Name: "alias-check", Op: claim.Is, Values: []string{"yes"}},
	{Name: "signing-key", Op: claim.Eq, Values: []string{"vcek"}},
}

// Effective lists what a requirement asks for with the defaults of what it does
// not speak of.
func Effective(p claim.Platform) []claim.Prop {
	list := append([]claim.Prop(nil), p.Props...)
	spoken := map[string]bool{}
	for _, q := range p.Props {
		spoken[q.Name] = true
	}
	if p.Type == claim.AMDSEVSNP {
		for _, d := range defaults {
			if !spoken[d.Name] {
				list = append(list, d)
			}
		}
	}
	return list
}

// has says whether a platform states a property's value and it is accepted. An
// absent property is not accepted.
func has(p claim.Platform, want claim.Prop) bool {
	found := false
	for _, q := range p.Props {
		if q.Name != want.Name {
			continue
		}
		if found || q.Op != claim.Is && q.Op != claim.Eq || !want.Satisfied(q.Values[0]) {
			return false
		}
		found = true
	}
	return found
}

// R9: E is-environment, its measurement is-trusted, or an image is-trusted whose
// ID key, image ID and least SVN its platform states: E
// environment-measurement-is-trusted.
func R9(env, trusted, conclusion claim.Clause) error {
	e, ok := env.Subject.(claim.Environment)
	if !ok || env.Verb != claim.IsEnvironment || trusted.Verb != claim.IsTrusted {
		return errors.New("rule 9: the premises are not E is-environment, and Measurement or Image is-trusted")
	}
	switch x := trusted.Subject.(type) {
	case claim.Measurement:
		if !x.Covers(e.Measurement) {
			return errors.New("rule 9: another measurement is trusted")
		}
	case claim.Image:
		if err := signedAs(e, x); err != nil {
			return err
		}
	default:
		return errors.New("rule 9: the premises are not E is-environment, and Measurement or Image is-trusted")
	}
	return follows(9, conclusion, claim.Clause{Subject: e, Verb: claim.EnvironmentMeasurementIsTrusted})
}

// signedAs says whether an environment states that it was launched as an image.
func signedAs(e claim.Environment, i claim.Image) error {
	if e.Platform.Type != claim.AMDSEVSNP || len(e.Measurement.Digest) != 96 {
		return errors.New("rule 9: an image is launched on " + claim.AMDSEVSNP + " alone")
	}
	for _, p := range i.Props() {
		if !has(e.Platform, p) {
			return fmt.Errorf("rule 9: the environment does not state %s", p)
		}
	}
	if i.Instance != "" && i.Instance != e.Measurement.Instance {
		return errors.New("rule 9: the image is trusted for another instance")
	}
	return nil
}

// R10: E environment-platform-is-trusted, E environment-measurement-is-trusted:
// E is-trusted.
func R10(platform, measurement, conclusion claim.Clause) error {
	e, ok := platform.Subject.(claim.Environment)
	if !ok || platform.Verb != claim.EnvironmentPlatformIsTrusted || measurement.Verb != claim.EnvironmentMeasurementIsTrusted ||
		measurement.Subject == nil || measurement.Subject.String() != e.String() {
		return errors.New("rule 10: the premises are not that platform and measurement of one environment are trusted")
	}
	return follows(10, conclusion, claim.Clause{Subject: e, Verb: claim.IsTrusted})
}

func follows(rule int, got, want claim.Clause) error {
	if !got.Equal(want) {
		return fmt.Errorf("rule %d: %s does not follow", rule, text(got))
	}
	return nil
}

func text(c claim.Clause) string {
	if c.Subject == nil {
		return "nothing"
	}
	return c.String()
}
