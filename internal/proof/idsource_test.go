package proof

import (
	"encoding/hex"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/snp"
)

// The host waits until the claim that an image brings its ID has run out, or is
// revoked, and then sets HOST_DATA: the ID does not become its choice.
func TestImageIDOutlivesItsClaim(t *testing.T) {
	ch := appraisetest.Mint(appraisetest.Config{})
	root := must(appraise.NewRoots(must(appraise.NewRoot(snp.Milan, ch.ARK.Raw))))
	id := [32]byte{0x1d}
	brings := claim.Measurement{Digest: web.Digest, Instance: hex.EncodeToString(id[:])}
	line := brings.String() + " takes-id-from-image"
	report := func(image string, hostData [32]byte) *appraise.Verified {
		r := ch.Report(3)
		r.Measurement, r.HostData = [48]byte(must(hex.DecodeString(image))), hostData
		return must(appraise.Verify(ch.Sign(r), appraise.Endorsements{VEK: ch.VEK.Raw, ASK: ch.ASK.Raw}, root, now, appraise.Options{}))
	}
	other := hexOf(0xb0, 48)
	for name, c := range map[string]struct {
		lines []string
		at    time.Time
		zeros code.Code // what HOST_DATA of zeros is told
	}{
		"in force":                {[]string{line}, now, ""},
		"expired":                 {[]string{line}, now.AddDate(0, 4, 0), code.IDZero},
		"revoked, all of it":      {[]string{line, web.String() + " is-revoked"}, now, code.IDZero},
		"revoked, as that ID":     {[]string{line, brings.String() + " is-revoked"}, now, code.IDZero},
		"another one is in force": {[]string{line, claim.Measurement{Digest: hexOf(0xb1, 48), Instance: hexOf(0x77, 32)}.String() + " takes-id-from-image"}, now, ""},
	} {
		a := NewAuthorizer(policy(t, append(c.lines, trustWeb)...))
		from := func(image string, hostData [32]byte, record *[32]byte) (*Named, error) {
			return a.FromSNP(report(image, hostData), auth, "", record, c.at)
		}
		_, err := from(other, id, nil)
		wantCode(t, name+": another image with that ID", err, code.InstanceSource)
		_, err = from(web.Digest, id, nil)
		wantCode(t, name+": HOST_DATA set to its own ID", err, code.InstanceSource)
		_, err = from(web.Digest, [32]byte{9}, nil)
		wantCode(t, name+": HOST_DATA set to another ID", err, code.InstanceSource)
		_, err = from(web.Digest, [32]byte{}, &[32]byte{9})
		wantCode(t, name+": another ID by record", err, code.InstanceSource)
		switch n, err := from(web.Digest, [32]byte{}, nil); {
		case c.zeros != "":
			wantCode(t, name+": no HOST_DATA", err, c.zeros)
		case err != nil || n.Instance != id || n.NotAfter.IsZero():
			t.Errorf("%s: %+v, %v", name, n, err)
		}
		if n, err := from(web.Digest, [32]byte{}, &id); err != nil || n.Instance != id {
			t.Errorf("%s, by record: %+v, %v", name, n, err)
		}
		if n, err := from(other, [32]byte{9}, nil); err != nil || n.Instance != [32]byte{9} {
			t.Errorf("%s, another image and instance: %+v, %v", name, n, err)
		}
	}
}
