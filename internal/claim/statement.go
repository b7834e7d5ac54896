package claim

import (
	"fmt"
	"strings"
)

// Verb is what a clause says of its subject.
type Verb string

// The verbs.
const (
	IsTrusted                       Verb = "is-trusted"
	IsTrustedForAttestation         Verb = "is-trusted-for-attestation"
	IsTrustedForAuthentication      Verb = "is-trusted-for-authentication"
	IsTrustedForCertification       Verb = "is-trusted-for-certification"
	IsTrustedForServing             Verb = "is-trusted-for-serving"
	SpeaksFor                       Verb = "speaks-for"
	HasTrustedPlatformProperty      Verb = "has-trusted-platform-property"
	IsEnvironment                   Verb = "is-environment"
	EnvironmentPlatformIsTrusted    Verb = "environment-platform-is-trusted"
	EnvironmentMeasurementIsTrusted Verb = "environment-measurement-is-trusted"
	MayRead                         Verb = "may-read"
	MayWrite                        Verb = "may-write"
	MaySucceed                      Verb = "may-succeed"
	MayNominate                     Verb = "may-nominate"
	// TakesIDFromImage is said of a measurement with its instance: the image
	// brings that ID, so the measurement proves it, and HOST_DATA is zeros.
	TakesIDFromImage Verb = "takes-id-from-image"
	// Renews is said of two measurements: an instance that was seen as the first
	// is not admitted as the second any more.
	Renews    Verb = "renews"
	IsRevoked Verb = "is-revoked"
)

// verbs says what each verb stands between; a verb without objects has none.
var verbs = map[Verb]struct{ subject, object kinds }{
	IsTrusted:                       {kindKey | kindMeasurement | kindImage | kindEnvironment, 0},
	IsTrustedForAttestation:         {kindKey | kindMeasurement, kindPlatform},
	IsTrustedForAuthentication:      {kindKey, 0},
	IsTrustedForCertification:       {kindKey, 0},
	IsTrustedForServing:             {kindKey | kindMeasurement | kindImage, kindRole},
	SpeaksFor:                       {kindKey, kindMeasurement | kindEnvironment},
	HasTrustedPlatformProperty:      {kindPlatform, 0},
	IsEnvironment:                   {kindEnvironment, 0},
	EnvironmentPlatformIsTrusted:    {kindEnvironment, 0},
	EnvironmentMeasurementIsTrusted: {kindEnvironment, 0},
	MayRead:                         {kindMeasurement | kindImage, kindSecret},
	MayWrite:                        {kindMeasurement | kindImage, kindSecret},
	MaySucceed:                      {kindMeasurement | kindImage, kindMeasurement | kindImage},
	MayNominate:                     {kindMeasurement | kindImage, 0},
	TakesIDFromImage:                {kindMeasurement, 0},
	Renews:                          {kindMeasurement, kindMeasurement},
	IsRevoked:                       {kindKey | kindMeasurement | kindChip | kindSerial | kindCertificate, 0},
}

// Clause is subject, verb and, where the verb has one, object.
type Clause struct {
	Subject Entity
	Verb    Verb
	// Object is the platform of is-trusted-for-attestation ("on"), the
	// measurement or environment that a key speaks for, a role, a secret, or
	// the measurement or image that is succeeded.
	Object Entity
	// About lists the measurements that a key may attest on a simulated
	// enclave.
	About []Measurement
}

// String is the canonical text of the clause.
func (c Clause) String() string {
	var b strings.Builder
	b.WriteString(c.Subject.String() + " " + string(c.Verb))
	if c.Object != nil {
		if c.Verb == IsTrustedForAttestation {
			b.WriteString(" on")
		}
		b.WriteString(" " + c.Object.String())
	}
	for i, m := range c.About {
		if i == 0 {
			b.WriteString(" about ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(m.String())
	}
	return b.String()
}

// Equal says whether both say the same, word for word.
func (c Clause) Equal(o Clause) bool {
	return c.Subject != nil && o.Subject != nil && c.String() == o.String()
}

// check refuses a clause that is not a sentence of the language.
func (c Clause) check() error {
	v, ok := verbs[c.Verb]
	if !ok {
		return fmt.Errorf("unknown verb %.60q", c.Verb)
	}
	if c.Subject == nil || c.Subject.kind()&v.subject == 0 {
		return fmt.Errorf("%s: the subject is of a kind that it cannot be said of", c.Verb)
	}
	switch {
	case c.Object == nil && v.object == 0:
	case c.Object == nil && c.Verb == IsTrustedForAttestation:
	case c.Object == nil:
		return fmt.Errorf("%s: the object is missing", c.Verb)
	case c.Object.kind()&v.object == 0:
		return fmt.Errorf("%s: the object is of a kind that it cannot have", c.Verb)
	}
	if c.Verb == IsTrustedForAttestation && c.Object != nil && c.Subject.kind() != kindKey {
		return fmt.Errorf("%s on a platform is said of keys", c.Verb)
	}
	if len(c.About) > 0 {
		if p, ok := c.Object.(Platform); !ok || p.Type != SimulatedEnclave {
			return fmt.Errorf("%s: only trust on Platform[%s] is about measurements", c.Verb, SimulatedEnclave)
		}
	}
	return nil
}

// Statement is a clause, or what a key says.
type Statement struct {
	Speaker Key // zero where nobody in particular says it
	Clause  Clause
}

// String is the canonical text of the statement.
func (s Statement) String() string {
	if s.Speaker.IsZero() {
		return s.Clause.String()
	}
	return s.Speaker.String() + " says " + s.Clause.String()
}

// Equal says whether both say the same, word for word.
func (s Statement) Equal(o Statement) bool { return s.Speaker == o.Speaker && s.Clause.Equal(o.Clause) }
