package claim

import (
	"errors"
	"strconv"
)

// Image is every launch that the owner of an ID key signed as a version of an
// image, at or above the least one: what the ID block of an SNP launch says, and
// the secure processor verified against the launch digest. All of it is compared
// with the report; a launch without an ID block has zeros there, which no Image
// can name.
type Image struct {
	IDKey    string // ID_KEY_DIGEST, 96 hex digits
	ImageID  string // IMAGE_ID, 32 hex digits
	FamilyID string // FAMILY_ID, 32 hex digits; empty: any
	MinSVN   uint32 // at least 1
	// Instance narrows it as it does a Measurement.
	Instance string
}

func (i Image) String() string {
	s := "Image[id-key: " + i.IDKey + ", image-id: " + i.ImageID
	if i.FamilyID != "" {
		s += ", family-id: " + i.FamilyID
	}
	s += ", svn >= " + strconv.FormatUint(uint64(i.MinSVN), 10) + "]"
	if i.Instance != "" {
		s += " with-instance[" + i.Instance + "]"
	}
	return s
}

// Props are the properties that a platform must state for the image.
func (i Image) Props() []Prop {
	list := []Prop{
		{Name: "id-key-digest", Op: Eq, Values: []string{i.IDKey}},
		{Name: "image-id", Op: Eq, Values: []string{i.ImageID}},
		{Name: "guest-svn", Op: Ge, Values: []string{strconv.FormatUint(uint64(i.MinSVN), 10)}},
	}
	if i.FamilyID != "" {
		list = append(list, Prop{Name: "family-id", Op: Eq, Values: []string{i.FamilyID}})
	}
	return list
}

// Covers says whether what is said of the image is said of a launch.
func (i Image) Covers(l Launched) bool {
	return i.check() == nil && len(l.Measurement.Digest) == 96 && i.IDKey == l.IDKey && i.ImageID == l.ImageID &&
		(i.FamilyID == "" || i.FamilyID == l.FamilyID) && l.SVN >= i.MinSVN && (i.Instance == "" || i.Instance == l.Measurement.Instance)
}

func (i Image) check() error {
	switch {
	case !isHex(i.IDKey, 96) || zeros(i.IDKey):
		return errors.New("Image: id-key wants the digest of an ID key, 96 lower-case hex digits, not all zero")
	case !isHex(i.ImageID, 32) || zeros(i.ImageID):
		return errors.New("Image: image-id wants 32 lower-case hex digits, not all zero")
	case i.FamilyID != "" && (!isHex(i.FamilyID, 32) || zeros(i.FamilyID)):
		return errors.New("Image: family-id wants 32 lower-case hex digits, not all zero")
	case i.MinSVN == 0:
		return errors.New("Image: svn wants a number from 1 to 4294967295")
	case i.Instance != "" && (!isHex(i.Instance, 64) || zeros(i.Instance)):
		return errors.New("with-instance: want 64 lower-case hex digits, not all zero")
	}
	return nil
}

// Launched is what a launch was, as its evidence or its admission certificate
// states it. It is no entity: a Measurement or an Image covers it.
type Launched struct {
	Measurement Measurement // with its instance
	// From the ID block, hex; empty without one.
	IDKey, ImageID, FamilyID string
	SVN                      uint32
}

// Covers says whether what is said of an entity is said of a launch.
func Covers(e Entity, l Launched) bool {
	switch x := e.(type) {
	case Measurement:
		return x.Covers(l.Measurement)
	case Image:
		return x.Covers(l)
	}
	return false
}

// image takes [id-key: HEX, image-id: HEX, family-id: HEX, svn >= N], the family
// where there is one, narrowed or not.
func (p *parser) image() (i Image, err error) {
	if err = p.want("["); err != nil {
		return i, err
	}
	named := func(name string, to *string) error {
		if err := p.want(name); err != nil {
			return err
		}
		if err := p.want(":"); err != nil {
			return err
		}
		var err error
		if *to, err = p.word(); err == nil {
			err = p.want(",")
		}
		return err
	}
	if err = named("id-key", &i.IDKey); err != nil {
		return i, err
	}
	if err = named("image-id", &i.ImageID); err != nil {
		return i, err
	}
	if !p.eat("svn") {
		if err = named("family-id", &i.FamilyID); err != nil {
			return i, err
		}
		if err = p.want("svn"); err != nil {
			return i, err
		}
	}
	if err = p.want(string(Ge)); err != nil {
		return i, err
	}
	text, err := p.word()
	if err != nil {
		return i, err
	}
	if n, ok := number(text); ok {
		i.MinSVN = uint32(n)
	}
	if err = p.want("]"); err != nil {
		return i, err
	}
	if p.eat("with-instance") {
		if i.Instance, err = p.bracketed(); err != nil {
			return i, err
		}
	}
	return i, i.check()
}
