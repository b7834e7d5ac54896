package appraise

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"attestbox/internal/snp"
)

// ChainCache remembers chains whose signatures verified, by the exact bytes of
// every certificate and list and by the very set of roots that they verified
// against. What depends on time is never remembered, and neither is a failure.
// It is bounded, forgets the least recently used, and may be shared between
// goroutines.
type ChainCache struct {
	mu   sync.Mutex
	max  int
	all  map[chainKey]*list.Element
	used *list.List // of *cached, the latest first
}

type chainKey struct {
	roots   *Roots
	product snp.Product
	sum     [32]byte
}

type cached struct {
	key   chainKey
	chain *chain
}

// NewChainCache makes a cache of at most max chains, at least one. A chain
// takes about 10 KiB.
func NewChainCache(max int) *ChainCache {
	return &ChainCache{max: atLeastOne(max), all: map[chainKey]*list.Element{}, used: list.New()}
}

// Len is the number of chains remembered.
func (c *ChainCache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// get returns the chain for the endorsements, verified now or before.
func (c *ChainCache) get(e Endorsements, roots *Roots, product snp.Product) (*chain, *chainError) {
	if c == nil {
		return buildChain(e, roots, product)
	}
	key := chainKey{roots, product, sumOf(e)}
	c.mu.Lock()
	if el, ok := c.all[key]; ok {
		c.used.MoveToFront(el)
		c.mu.Unlock()
		return el.Value.(*cached).chain, nil
	}
	c.mu.Unlock()
	ch, err := buildChain(e, roots, product)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.all[key]; !ok {
		c.all[key] = c.used.PushFront(&cached{key, ch})
		for len(c.all) > c.max {
			last := c.used.Back()
			delete(c.all, last.Value.(*cached).key)
			c.used.Remove(last)
		}
	}
	return ch, nil
}

func sumOf(e Endorsements) [32]byte {
	h := sha256.New()
	for _, b := range [][]byte{e.VEK, e.ASK, e.ARK, e.CRL} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	return [32]byte(h.Sum(nil))
}

func atLeastOne(n int) int { return max(n, 1) }
