package claim

import (
	"strings"
	"testing"
)

// What an Image covers, field by field; one that the parser would not write
// covers nothing.
func TestImageCovers(t *testing.T) {
	i := Image{IDKey: digestA, ImageID: image, FamilyID: hash[:32], MinSVN: 3, Instance: hash}
	l := Launched{Measurement: Measurement{Digest: digestB, Instance: hash}, IDKey: digestA, ImageID: image, FamilyID: hash[:32], SVN: 3}
	if !i.Covers(l) || !Covers(i, l) || Covers(Measurement{Digest: digestA}, l) || !Covers(Measurement{Digest: digestB}, l) || Covers(Role{"x"}, l) {
		t.Error("the launch that it names")
	}
	for name, edit := range map[string]func(*Image, *Launched){
		"another key":           func(_ *Image, l *Launched) { l.IDKey = digestB },
		"another image":         func(_ *Image, l *Launched) { l.ImageID = hash[:32] },
		"another family":        func(_ *Image, l *Launched) { l.FamilyID = image },
		"no family":             func(_ *Image, l *Launched) { l.FamilyID = "" },
		"an older version":      func(_ *Image, l *Launched) { l.SVN = 2 },
		"another instance":      func(_ *Image, l *Launched) { l.Measurement.Instance = digestA[:64] },
		"a program":             func(_ *Image, l *Launched) { l.Measurement.Digest = prog },
		"no digest":             func(_ *Image, l *Launched) { l.Measurement.Digest = "" },
		"no ID block":           func(_ *Image, l *Launched) { l.IDKey, l.ImageID, l.FamilyID, l.SVN = "", "", "", 0 },
		"an empty image":        func(i *Image, l *Launched) { *i, *l = Image{}, Launched{Measurement: Measurement{Digest: digestB}} },
		"an image without key":  func(i *Image, l *Launched) { i.IDKey, l.IDKey = "", "" },
		"an image of zeros":     func(i *Image, l *Launched) { i.ImageID, l.ImageID = strings.Repeat("0", 32), strings.Repeat("0", 32) },
		"an image from SVN 0":   func(i *Image, l *Launched) { i.MinSVN, l.SVN = 0, 0 },
		"an image without a ID": func(i *Image, l *Launched) { i.ImageID, l.ImageID = "", "" },
	} {
		i, l := i, l
		edit(&i, &l)
		if i.Covers(l) {
			t.Errorf("%s: covered", name)
		}
	}
}
