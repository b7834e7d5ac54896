package appraise_test

import (
	"strings"
	"testing"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// Each row is one report against identities alone; its digest is on no list.
func TestIdentity(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	base := appraise.Identity{IDKey: repeat48(7), ImageID: appraise.Hex16{8}, MinSVN: 3}
	family := base
	family.FamilyID = appraise.Hex16{9}
	other := base
	other.ImageID = appraise.Hex16{1}
	signed := func(r *snp.Report) {
		r.IDKeyDigest, r.ImageID, r.FamilyID, r.GuestSVN = repeat48(7), [16]byte{8}, [16]byte{9}, 3
	}
	for name, tc := range map[string]struct {
		report func(*snp.Report)
		want   []appraise.Identity
		ok     bool
	}{
		"as signed":         {nil, []appraise.Identity{base}, true},
		"with its family":   {nil, []appraise.Identity{family}, true},
		"the second of two": {nil, []appraise.Identity{other, base}, true},
		"a newer version":   {func(r *snp.Report) { r.GuestSVN = 4 }, []appraise.Identity{base}, true},
		"an older version":  {func(r *snp.Report) { r.GuestSVN = 2 }, []appraise.Identity{base}, false},
		"another image":     {func(r *snp.Report) { r.ImageID[15] ^= 1 }, []appraise.Identity{base}, false},
		"another key":       {func(r *snp.Report) { r.IDKeyDigest[47] ^= 1 }, []appraise.Identity{base}, false},
		"another family":    {func(r *snp.Report) { r.FamilyID[0] ^= 1 }, []appraise.Identity{family}, false},
		"no family":         {func(r *snp.Report) { r.FamilyID = [16]byte{} }, []appraise.Identity{family}, false},
		"no ID block": {func(r *snp.Report) {
			r.IDKeyDigest, r.ImageID, r.FamilyID, r.GuestSVN = [48]byte{}, [16]byte{}, [16]byte{}, 0
		}, []appraise.Identity{base}, false},
		"no digest":           {func(r *snp.Report) { r.Measurement = [48]byte{} }, []appraise.Identity{base}, false},
		"other identity only": {nil, []appraise.Identity{other}, false},
		// What Check refuses admits nothing either.
		"key zero":   {func(r *snp.Report) { r.IDKeyDigest = [48]byte{} }, []appraise.Identity{{ImageID: base.ImageID, MinSVN: 3}}, false},
		"image zero": {func(r *snp.Report) { r.ImageID = [16]byte{} }, []appraise.Identity{{IDKey: base.IDKey, MinSVN: 3}}, false},
		"SVN zero":   {nil, []appraise.Identity{{IDKey: base.IDKey, ImageID: base.ImageID}}, false},
	} {
		r, p := c.Report(3), basePolicy(c)
		signed(r)
		if tc.report != nil {
			tc.report(r)
		}
		p.Measurements, p.Identities = nil, tc.want
		res := appraise.Appraise(verified(t, c, r), p, expected(), now)
		if res.Accepted != tc.ok || (res.By != nil) != tc.ok {
			t.Errorf("%s: accepted %v by %v: %v", name, res.Accepted, res.By, res.Err())
		}
		if !tc.ok && p.Check() == nil {
			if got, _ := code.Of(res.Err()); got != code.MeasurementUnknown {
				t.Errorf("%s: %v", name, res.Err())
			}
		}
	}
	// Beside a digest that is listed: no identity had to admit it; and nothing
	// else is waived for a signed one.
	r, p := c.Report(3), basePolicy(c)
	p.Identities = []appraise.Identity{base}
	if res := appraise.Appraise(verified(t, c, r), p, expected(), now); !res.Accepted || res.By != nil {
		t.Errorf("a listed digest: %v by %v", res.Err(), res.By)
	}
	signed(r)
	r.Policy |= snp.PolicyDebug
	p.Measurements = nil
	if res := appraise.Appraise(verified(t, c, r), p, expected(), now); res.Accepted {
		t.Error("a signed debug guest is accepted")
	}
}

func TestIdentityInPolicyFile(t *testing.T) {
	file := func(identity string) string {
		return `{"products": {"Milan": {}}, "measurements": [], "identities": [` + identity + `]}`
	}
	key, image := strings.Repeat("07", 48), strings.Repeat("08", 16)
	good := `{"id_key": "` + key + `", "image_id": "` + image + `", "min_svn": 3}`
	p, err := appraise.ParsePolicy([]byte(file(good)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := appraise.ParsePolicy(b); err != nil || len(again.Identities) != 1 || again.Identities[0] != p.Identities[0] || strings.Contains(string(b), "family_id") {
		t.Errorf("%s: %v", b, err)
	}
	for _, bad := range []string{
		`{"id_key": "` + strings.Repeat("0", 96) + `", "image_id": "` + image + `", "min_svn": 3}`,
		`{"id_key": "` + key + `", "image_id": "` + strings.Repeat("0", 32) + `", "min_svn": 3}`,
		`{"id_key": "` + key + `", "image_id": "` + image + `", "min_svn": 0}`,
		`{"id_key": "` + key + `", "image_id": "` + image + `"}`,
		`{"image_id": "` + image + `", "min_svn": 3}`,
		`{"id_key": "` + key + `", "min_svn": 3}`,
		`{"id_key": "` + key[2:] + `", "image_id": "` + image + `", "min_svn": 3}`,
		`{"id_key": "` + key + `", "image_id": "` + image + `", "min_svn": -1}`,
		`{"id_key": "` + key + `", "image_id": "` + image + `", "min_svn": 3, "more": 1}`,
	} {
		if _, err := appraise.ParsePolicy([]byte(file(bad))); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
	if _, err := appraise.ParsePolicy([]byte(file(""))); err == nil {
		t.Error("neither measurements nor identities: accepted")
	}
}

func TestSameImage(t *testing.T) {
	base := appraise.Identity{IDKey: repeat48(7), ImageID: appraise.Hex16{8}, MinSVN: 3}
	with := func(f func(*appraise.Identity)) appraise.Identity { i := base; f(&i); return i }
	one, two := with(func(i *appraise.Identity) { i.FamilyID[0] = 1 }), with(func(i *appraise.Identity) { i.FamilyID[0] = 2 })
	for name, tc := range map[string]struct {
		a, b appraise.Identity
		want bool
	}{
		"another floor":      {base, with(func(i *appraise.Identity) { i.MinSVN = 9 }), true},
		"any family and one": {base, one, true},
		"two families":       {one, two, false},
		"another key":        {base, with(func(i *appraise.Identity) { i.IDKey[0] ^= 1 }), false},
		"another image":      {base, with(func(i *appraise.Identity) { i.ImageID[0] ^= 1 }), false},
	} {
		if tc.a.SameImage(tc.b) != tc.want || tc.b.SameImage(tc.a) != tc.want {
			t.Errorf("%s: want %v", name, tc.want)
		}
	}
}
