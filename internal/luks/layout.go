package luks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"attestbox/internal/code"
)

// The kernel's own choices (drivers/md/dm-integrity.c), which cryptsetup leaves
// to it.
const (
	dmSector           = 512
	interleaveSectors  = 1 << log2Interleave
	log2Interleave     = 15
	journalFactor      = 7 // the journal is 1/128 of the device,
	maxJournalSectors  = 131072
	defBufferSectors   = 128
	superblockSectors  = 8
	journalBlock       = 8       // sectors of entries at the start of a section
	journalSectorData  = 512 - 8 // a commit id ends each sector
	paddingSectors     = 8
	log2BitmapSectors  = 15
	journalEntryAlign  = 8
	journalEntryHeader = 8 // the entry's sector number
)

// Layout is where dm-integrity keeps superblock, journal, tags and data. It
// follows from the suite, the sector size, the offset and the device's size;
// nothing of it is taken from the device.
//
//	superblock  8 sectors
//	journal     Sections * SectionSectors
//	then, again and again: MetadataRun sectors of tags, 32768 sectors of data
type Layout struct {
	Suite          *Suite
	SectorSize     int   // of encryption: 512 or 4096 bytes
	Offset         int64 // of the superblock on the device, in bytes
	Sections       int64 // of the journal
	SectionSectors int64
	MetadataRun    int64 // sectors
	BufferSectors  int64
	Provided       int64 // sectors that the mapping has

	entrySize, sectorEntries, bitmapBits int64
}

// NewLayout is the layout that the kernel gives a device of size bytes, as its
// initialize_superblock and calculate_device_limits compute it.
func NewLayout(suite *Suite, sectorSize int, offset, size int64) (*Layout, error) {
	if suite == nil || suite.TagBytes == 0 || sectorSize != 512 && sectorSize != 4096 || offset <= 0 || offset%4096 != 0 {
		return nil, errors.New("no such layout")
	}
	l := &Layout{Suite: suite, SectorSize: sectorSize, Offset: offset}
	device, tag, block := size/dmSector, int64(suite.TagBytes), l.blockSectors()
	// An entry has the last 8 bytes of each sector besides the tag.
	l.entrySize = roundUp(journalEntryHeader+8*block+tag, journalEntryAlign)
	l.sectorEntries = journalSectorData / l.entrySize
	l.SectionSectors = l.sectionEntries()*block + journalBlock
	l.Sections = max(1, min(maxJournalSectors, device>>journalFactor)/l.SectionSectors)
	l.MetadataRun = roundUp(tag*(interleaveSectors/block), paddingSectors*dmSector) / dmSector
	l.BufferSectors = min(defBufferSectors, l.MetadataRun&-l.MetadataRun)
	if l.initial()+paddingSectors < device {
		for bit := bits.Len64(uint64(device)) - 1; bit >= 3; bit-- {
			if more := l.Provided | 1<<bit; l.dataSector(more-1) < device {
				l.Provided = more
			}
		}
	}
	if l.Provided == 0 {
		return nil, code.Wrap(code.LUKSTruncated, fmt.Errorf("the device is %d bytes, its data begins at %d: no room for dm-integrity", size, offset))
	}
	// Only a bitmap would use this number; it is in the superblock all the same.
	inJournal := min(l.Sections*l.SectionSectors<<12, math.MaxUint32)
	l.bitmapBits = log2BitmapSectors
	for inJournal < (l.Provided+1<<l.bitmapBits-1)>>l.bitmapBits {
		l.bitmapBits++
	}
	l.bitmapBits -= l.log2Block()
	return l, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func (l *Layout) blockSectors() int64 { return int64(l.SectorSize / dmSector) }

func (l *Layout) log2Block() int64 { return int64(bits.TrailingZeros64(uint64(l.blockSectors()))) }

func (l *Layout) sectionEntries() int64 { return l.sectorEntries * journalBlock }

// initial is the sectors from the superblock to the first tags.
func (l *Layout) initial() int64 { return superblockSectors + l.Sections*l.SectionSectors }

// dataSector is where sector n of the mapping is on the device.
func (l *Layout) dataSector(n int64) int64 {
	area := n >> log2Interleave
	return l.Offset/dmSector + l.initial() + area<<log2Interleave + (area+1)*l.MetadataRun + n&(interleaveSectors-1)
}

// JournalSectors is the journal's size as the kernel's table names it.
func (l *Layout) JournalSectors() int64 { return l.initial() - superblockSectors }

// DataOffset is where byte off of the mapping is on the device; Run is how many
// bytes follow there before the next tags.
func (l *Layout) DataOffset(off int64) int64 {
	return l.dataSector(off/dmSector)*dmSector + off%dmSector
}

// Run is the size of the data between two areas of tags.
func (l *Layout) Run() int64 { return interleaveSectors * dmSector }

// TagOffset is where the tag of the encryption sector at byte off is. Tags of
// one run follow each other.
func (l *Layout) TagOffset(off int64) int64 {
	n := off / dmSector
	area := n >> log2Interleave
	sector := l.Offset/dmSector + l.initial() + area<<log2Interleave + area*l.MetadataRun
	return sector*dmSector + n&(interleaveSectors-1)/l.blockSectors()*int64(l.Suite.TagBytes)
}

// Journal is a valid journal with nothing in it, as the kernel initialises it:
// zeros, every entry marked as unused, every sector with the commit id of its
// place.
func (l *Layout) Journal() []byte {
	b := make([]byte, l.JournalSectors()*dmSector)
	for i := range l.Sections {
		section := b[i*l.SectionSectors*dmSector:]
		for j := range l.SectionSectors {
			binary.LittleEndian.PutUint64(section[j*dmSector+journalSectorData:], 0x1111111111111111^(uint64(i)<<32^uint64(j)))
		}
		for n := range l.sectionEntries() {
			at := n%journalBlock*dmSector + n/journalBlock*l.entrySize
			binary.LittleEndian.PutUint32(section[at+4:], math.MaxUint32)
		}
	}
	return b
}
