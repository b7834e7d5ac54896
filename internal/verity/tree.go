package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Format writes superblock and tree for data of r.DataBlocks blocks to out and
// sets r.RootHash. One worker per core hashes the data.
func Format(ctx context.Context, data io.ReaderAt, out io.WriterAt, r *Record, uuid [16]byte) error {
	probe := *r
	probe.RootHash[0] |= 1 // not known yet
	if err := probe.Check(); err != nil {
		return err
	}
	if _, err := out.WriteAt(superblock(r, uuid), int64(r.HashOffset)); err != nil {
		return fmt.Errorf("writing the superblock: %w", err)
	}
	level, err := hashData(ctx, data, r)
	if err != nil {
		return err
	}
	sizes := levels(r.DataBlocks)
	at := r.Size()
	for i := range sizes {
		at -= sizes[i] * BlockSize
		if _, err := out.WriteAt(level, int64(at)); err != nil {
			return fmt.Errorf("writing the hash tree: %w", err)
		}
		level = hashLevel(level, r)
	}
	copy(r.RootHash[:], level)
	return nil
}

// superblock is one block that begins with the structure of doc.go.
func superblock(r *Record, uuid [16]byte) []byte {
	b := make([]byte, BlockSize)
	copy(b[0:], "verity")
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], 1)
	copy(b[16:], uuid[:])
	copy(b[32:], Algorithm)
	binary.LittleEndian.PutUint32(b[64:], BlockSize)
	binary.LittleEndian.PutUint32(b[68:], BlockSize)
	binary.LittleEndian.PutUint64(b[72:], r.DataBlocks)
	binary.LittleEndian.PutUint16(b[80:], uint16(len(r.Salt)))
	copy(b[88:], r.Salt[:])
	return b
}

// padded is the size of a level with n digests.
func padded(n uint64) uint64 { return (n + perBlock - 1) / perBlock * BlockSize }

// hashLevel is the level above one, or the root hash.
func hashLevel(below []byte, r *Record) []byte {
	n := uint64(len(below) / BlockSize)
	out := make([]byte, padded(n))
	for i := range n {
		h := hash(&r.Salt, below[i*BlockSize:(i+1)*BlockSize])
		copy(out[i*sha256.Size:], h[:])
	}
	return out
}

// hashData is the lowest level. It is held in memory: 1/128 of the data.
func hashData(ctx context.Context, data io.ReaderAt, r *Record) ([]byte, error) {
	const chunk = 256 // blocks
	out := make([]byte, padded(r.DataBlocks))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buf := make([]byte, chunk*BlockSize)
			for ctx.Err() == nil {
				first := next.Add(chunk) - chunk
				if first >= r.DataBlocks {
					return
				}
				b := buf[:min(chunk, r.DataBlocks-first)*BlockSize]
				if _, err := data.ReadAt(b, int64(first*BlockSize)); err != nil {
					cancel(fmt.Errorf("reading the data: %w", err))
					return
				}
				for i := uint64(0); i*BlockSize < uint64(len(b)); i++ {
					h := hash(&r.Salt, b[i*BlockSize:(i+1)*BlockSize])
					copy(out[(first+i)*sha256.Size:], h[:])
				}
			}
		})
	}
	wg.Wait()
	return out, context.Cause(ctx)
}
