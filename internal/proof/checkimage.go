package proof

import (
	"strconv"
	"strings"

	"attestbox/internal/claim"
)

// What Check does for trust in an image.

// imaged says whether an image's text is one that the evidence was launched as.
// The properties are the report's own, read from the evidence and not from what
// a step says of it.
func (c *checker) imaged(text string) bool {
	st, err := claim.ParseStatement(text + " is-trusted")
	if err != nil || c.e.platform != claim.AMDSEVSNP {
		return false
	}
	i, ok := st.Clause.Subject.(claim.Image)
	if !ok || i.String() != text || i.MinSVN == 0 || strings.Trim(i.IDKey, "0") == "" || strings.Trim(i.ImageID, "0") == "" {
		return false
	}
	svn, err := strconv.ParseUint(c.e.props["guest-svn"], 10, 32)
	return err == nil && svn >= uint64(i.MinSVN) && c.e.props["id-key-digest"] == i.IDKey && c.e.props["image-id"] == i.ImageID &&
		(i.FamilyID == "" || c.e.props["family-id"] == i.FamilyID) && (i.Instance == "" || c.e.measurement.Instance == i.Instance)
}

// signed checks rule 9 for an image: the evidence was launched as it, and the
// environment, which the chip's key vouches for, states so.
func (c *checker) signed(image, environment string) bool {
	if !c.imaged(image) {
		return false
	}
	names := []string{"id-key-digest", "image-id", "guest-svn"}
	if strings.Contains(image, ", family-id: ") {
		names = append(names, "family-id")
	}
	for _, name := range names {
		stated := ", " + name + " = " + c.e.props[name]
		if !strings.Contains(environment, stated+", ") && !strings.Contains(environment, stated+"], ") {
			return false
		}
	}
	return true
}
