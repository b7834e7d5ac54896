package measure

import (
	"fmt"
	"slices"
	"testing"
)

// pageDiff lists where two pages differ, as offset and the other page's byte.
func pageDiff(a, b *[PageSize]byte) []string {
	var d []string
	for i := range a {
		if a[i] != b[i] {
			d = append(d, fmt.Sprintf("%03x:%02x", i, b[i]))
		}
	}
	return d
}

// A host profile changes the fields that docs/measure.md says, and no other.
func TestHostProfiles(t *testing.T) {
	zeroFPU := []string{"408:00", "409:00", "410:00", "411:00"}
	for _, tc := range []struct {
		vmm, host    string
		first, other []string // against linux-6.9
	}{
		{"", HostLinux69, nil, nil},
		{"", HostSVSMFCW, nil, nil},
		{"", HostCR0NE, []string{"158:30"}, []string{"158:30"}},
		{"", HostLinux68, append([]string{"3b0:21"}, zeroFPU...), append([]string{"3b0:21"}, zeroFPU...)},
		{EC2, "", slices.Concat([]string{"012:9a", "022:92", "092:83", "310:00", "311:06", "312:00"}, zeroFPU),
			slices.Concat([]string{"022:92", "092:83", "310:00", "311:06", "312:00"}, zeroFPU)},
		{GCE, "", slices.Concat([]string{"269:01", "26c:00", "26d:00", "26e:00", "310:00", "311:06", "312:00"}, zeroFPU), nil},
	} {
		base := snp(t, demo())
		cfg := demo()
		cfg.VMM, cfg.Host = tc.vmm, tc.host
		r := snp(t, cfg)
		if tc.vmm == GCE {
			tc.other = tc.first
		}
		if got := pageDiff(base.First, r.First); !slices.Equal(got, tc.first) {
			t.Errorf("%s%s, boot processor: %q, want %q", tc.vmm, tc.host, got, tc.first)
		}
		if got := pageDiff(base.Others, r.Others); !slices.Equal(got, tc.other) {
			t.Errorf("%s%s, others: %q, want %q", tc.vmm, tc.host, got, tc.other)
		}
	}
	plain, withFCW := svsmDemo(t), svsmDemo(t)
	withFCW.Host = HostSVSMFCW
	a, err := SVSM(plain)
	if err != nil {
		t.Fatal(err)
	}
	b, err := SVSM(withFCW)
	if got := pageDiff(a.First, b.First); err != nil || !slices.Equal(got, []string{"410:7f", "411:03"}) || a.Digest == b.Digest {
		t.Errorf("under an SVSM: %q, %v", got, err)
	}
}
