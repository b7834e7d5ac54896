package proof

import (
	"slices"
	"testing"
	"time"

	"attestbox/internal/claim"
)

func measured(b byte) claim.Measurement { return claim.Measurement{Digest: hexOf(b, 48)} }

func TestRenewed(t *testing.T) {
	a, b, c, d := measured(0xa1), measured(0xb1), measured(0xc1), measured(0xd1)
	of := func(m claim.Measurement, instance string) claim.Measurement { m.Instance = instance; return m }
	says := func(n, o claim.Measurement) string { return n.String() + " renews " + o.String() }
	other := hexOf(0x2d, 32)
	lines := []string{trustWeb, says(c, b), says(b, a), says(of(d, inst), c)}
	auth := NewAuthorizer(policy(t, lines...))
	for _, x := range []struct {
		m    claim.Measurement
		want []string
	}{
		{of(a, inst), nil},
		{of(b, inst), []string{a.Digest}},
		{of(c, inst), []string{b.Digest, a.Digest}},
		{of(d, inst), []string{c.Digest, b.Digest, a.Digest}},
		{of(d, other), nil}, // it is said of one instance
		{of(measured(0xee), inst), nil},
	} {
		if got := auth.Renewed(x.m, now); !slices.Equal(got, x.want) {
			t.Errorf("%s: %q", x.m, got)
		}
	}
	// Claims end; what was narrowed by them stays so.
	later := now.Add(1000 * 24 * time.Hour)
	if got := auth.Renewed(of(c, inst), later); len(got) != 0 {
		t.Errorf("ended claims narrow: %q", got)
	}
	if !auth.StillRenews(of(c, inst), a.Digest) || !auth.StillRenews(of(d, inst), a.Digest) {
		t.Error("time widens what was narrowed")
	}
	if auth.StillRenews(of(d, other), a.Digest) || auth.StillRenews(of(a, inst), c.Digest) {
		t.Error("what nobody states is stated")
	}
	// The owner's word does widen it.
	for what, more := range map[string]string{
		"the newer measurement is revoked": c.String() + " is-revoked",
		"the claim is revoked":             "Claim[102] is-revoked",
		"a link between them is revoked":   b.String() + " is-revoked",
	} {
		if NewAuthorizer(policy(t, append(slices.Clone(lines), more)...)).StillRenews(of(c, inst), a.Digest) {
			t.Errorf("%s: still narrowed", what)
		}
	}
	if NewAuthorizer(policy(t, trustWeb)).StillRenews(of(c, inst), a.Digest) {
		t.Error("the statement is gone: still narrowed")
	}
}
