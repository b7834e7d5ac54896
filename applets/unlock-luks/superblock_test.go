package unlockluks

import (
	"bytes"
	"strings"
	"testing"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
)

// check looks at dm-integrity's superblock as well, where the file has it.
func TestCheckSuperblock(t *testing.T) {
	f := newFixture(t)
	key := secret.Random(32)
	defer key.Zero()
	header, v, _, err := luks.Format(key, luks.Params{UUID: testUUID, Integrity: luks.IntegrityHMAC})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	const size = 12 << 20
	l, err := luks.NewLayout(v.Suite, v.SectorSize, v.Offset, size)
	if err != nil {
		t.Fatal(err)
	}
	img := make([]byte, size)
	copy(img, header)
	copy(img[v.Offset:], l.Superblock())
	flags := bytes.Clone(img)
	flags[v.Offset+24] |= 2
	for _, tc := range []struct {
		name string
		b    []byte
		exit int
		want string
	}{
		{"whole", img, 0, "pass  luks-superblock"},
		{"header alone", header, 0, "skip  luks-superblock"},
		{"recalculating", flags, 3, "FAIL  luks-superblock-flags"},
		{"cut", img[:size-4096], 3, "FAIL  luks-superblock-size"},
		{"cut in the superblock", img[:len(header)+512], 3, "FAIL  luks-truncated"},
		{"empty behind the header", append(bytes.Clone(header), make([]byte, size-len(header))...), 3, "FAIL  luks-superblock "},
	} {
		out, errs, exit := call(nil, "check", f.write(t, "x.img", tc.b))
		if exit != tc.exit || !strings.Contains(out, tc.want) {
			t.Errorf("%s: exit %d, want %d and %q\n%s%s", tc.name, exit, tc.exit, tc.want, out, errs)
		}
	}
}
