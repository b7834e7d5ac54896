package measuretest

import (
	"attestbox/internal/measure"
)

// firmware is an image of random code with tables at its end.
func (g *generator) firmware(img *measure.Image, pages int) []byte {
	b := g.bytes(pages * measure.PageSize)
	if err := img.WriteTables(b); err != nil {
		panic("measuretest: " + err.Error()) // tables of a few hundred bytes in a page
	}
	return b
}

// image is what the tables of a firmware say: mostly a build that can hash a
// kernel, with a few entries missing or odd now and then.
func (g *generator) image(plain bool) *measure.Image {
	img := &measure.Image{HasFooter: !g.often(2), HasMetadata: !g.often(3), HasResetEIP: !g.often(2), ResetEIP: g.Uint32()}
	if img.ResetEIP == 0 || g.often(50) {
		img.ResetEIP = 0x80b004
	}
	img.Sections = g.sections(!plain && !g.often(6))
	for _, s := range img.Sections {
		if s.Type == measure.SectionKernelHashes {
			img.HasHashTable, img.HashTableSize = true, 0x400
			img.HashTableGPA = s.GPA + uint32(g.IntN(measure.PageSize-measure.HashTableSize))
		}
	}
	switch {
	case g.often(3):
		img.HasHashTable = false
	case g.often(2):
		img.HasHashTable, img.HashTableGPA = true, 0
	}
	if g.often(30) {
		img.HasSecretBlock, img.SecretBlockGPA, img.SecretBlockLen = true, g.Uint32(), g.Uint32()
	}
	return img
}

// sections are ranges of memory in random order, apart from each other but for
// a few cases.
func (g *generator) sections(hashes bool) []measure.Section {
	kinds := []measure.SectionType{measure.SectionSecrets, measure.SectionCPUID}
	if hashes {
		kinds = append(kinds, measure.SectionKernelHashes)
	}
	for range 1 + g.IntN(5) {
		kinds = append(kinds, pick(g, measure.SectionSECMemory, measure.SectionSECMemory, measure.SectionSVSMCaa))
	}
	if g.often(10) {
		kinds = append(kinds, measure.SectionCPUID)
	}
	if g.often(2) {
		kinds = append(kinds, 7)
	}
	g.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	var list []measure.Section
	at := uint32(measure.PageSize * (1 + g.IntN(0x1000)))
	for _, k := range kinds {
		pages := uint32(1)
		if k == measure.SectionSECMemory || k == measure.SectionSVSMCaa {
			pages = uint32(1 + g.IntN(24))
		}
		list = append(list, measure.Section{GPA: at, Size: pages * measure.PageSize, Type: k})
		at += measure.PageSize * (pages + uint32(g.IntN(3)))
	}
	if g.often(2) && len(list) > 1 {
		list[1].GPA = list[0].GPA
	}
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
