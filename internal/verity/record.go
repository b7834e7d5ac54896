package verity

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"attestbox/internal/code"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// BlockSize is that of data and tree.
const BlockSize = 4096

// Algorithm is the only hash.
const Algorithm = "sha256"

const (
	perBlock = BlockSize / sha256.Size
	// maxBlocks bounds the data at 2^60 bytes, far from where sums overflow.
	maxBlocks = 1 << 48
	// maxRecord bounds the text of a record.
	maxRecord = 4096
)

// Record is what has to be known of a device, and trusted, to map it. It is
// root.verity of init.json, and the file that mkimage disk -verity writes.
type Record struct {
	RootHash   wire.Hex32 `json:"root_hash"`
	Salt       wire.Hex32 `json:"salt"`
	DataBlocks uint64     `json:"data_blocks"` // of BlockSize
	HashOffset uint64     `json:"hash_offset"` // of the superblock, in bytes; the tree follows it
}

// Parse reads a record. Errors have the code verity-record.
func Parse(text []byte) (*Record, error) {
	r := &Record{}
	if len(text) > maxRecord {
		return nil, code.Wrap(code.VerityRecord, fmt.Errorf("record of %d bytes, at most %d", len(text), maxRecord))
	}
	if err := strictjson.Unmarshal(text, r); err != nil {
		return nil, code.Wrap(code.VerityRecord, fmt.Errorf("record: %w", err))
	}
	if err := r.Check(); err != nil {
		return nil, code.Wrap(code.VerityRecord, err)
	}
	return r, nil
}

// Marshal writes the record as Parse reads it.
func (r *Record) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// Check refuses what describes no device.
func (r *Record) Check() error {
	switch {
	case r.RootHash.IsZero():
		return errors.New("root_hash is missing")
	case r.DataBlocks < 2 || r.DataBlocks > maxBlocks:
		return fmt.Errorf("data_blocks is %d, want 2 to %d", r.DataBlocks, uint64(maxBlocks))
	case r.HashOffset%BlockSize != 0 || r.HashOffset < r.DataBlocks*BlockSize || r.HashOffset > maxBlocks*BlockSize:
		return fmt.Errorf("hash_offset is %d, want a multiple of %d behind the %d data blocks", r.HashOffset, BlockSize, r.DataBlocks)
	}
	return nil
}

// TreeOffset is where the root block lies, in bytes.
func (r *Record) TreeOffset() uint64 { return r.HashOffset + BlockSize }

// Size is how long the device has to be, in bytes.
func (r *Record) Size() uint64 {
	size := r.TreeOffset()
	for _, n := range levels(r.DataBlocks) {
		size += n * BlockSize
	}
	return size
}

// levels are the numbers of blocks of each level, the hashes of the data first.
func levels(blocks uint64) (n []uint64) {
	for blocks > 1 {
		blocks = (blocks + perBlock - 1) / perBlock
		n = append(n, blocks)
	}
	return n
}

// DataBlocks is the largest number of data blocks for which superblock and tree
// fit into size bytes behind them.
func DataBlocks(size uint64) uint64 {
	n := size / BlockSize
	for n > 0 {
		r := Record{DataBlocks: n, HashOffset: n * BlockSize}
		need := r.Size()
		if need <= size {
			return n
		}
		// Less than what is too much, so that no answer is jumped over.
		n -= min(n, max(1, (need-size)/BlockSize/4))
	}
	return 0
}

// CheckDevice compares the device's size and the root block of its tree with
// the record, so that another image is refused by name; every other block is
// for the kernel to check. Errors: verity-truncated, verity-root-hash, or that
// of a read.
func (r *Record) CheckDevice(dev io.ReaderAt, size int64) error {
	if size < 0 || uint64(size) < r.Size() {
		return code.Wrap(code.VerityTruncated, fmt.Errorf("the device is %d bytes, its data and hash tree are %d", size, r.Size()))
	}
	block := make([]byte, BlockSize)
	if _, err := dev.ReadAt(block, int64(r.TreeOffset())); err != nil {
		return fmt.Errorf("reading the hash tree: %w", err)
	}
	if got := hash(&r.Salt, block); got != r.RootHash {
		return code.Wrap(code.VerityRootHash, fmt.Errorf("the device has root hash %s, the image was measured with %s", got, r.RootHash))
	}
	return nil
}

func hash(salt *wire.Hex32, block []byte) (out wire.Hex32) {
	h := sha256.New()
	h.Write(salt[:])
	h.Write(block)
	h.Sum(out[:0])
	return out
}
