// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"sync"
)

// maxVerified is the largest number of tokens in each half of a cache. With claims of a
// kilobyte, both halves take about 20 MB.
const maxVerified = 4096

// A verified is a token that was verified. It holds until the token expires, and while
// the set with its key is current.
type verified struct {
	token *Token
	set   *Set // nil if the key is not from a set that changes
}

// A cache stores verified tokens by their hash, because an agent presents the same token
// for each publish. When the young half is full, it becomes the old half, and tokens of
// the old half that were not used again are dropped. Invalid tokens are not stored.
type cache struct {
	mu         sync.Mutex // guards the following
	young, old map[[sha256.Size]byte]*verified
}

// get returns the token with that hash, or nil.
func (c *cache) get(hash [sha256.Size]byte) *verified {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.young[hash]
	if !ok {
		if v, ok = c.old[hash]; ok {
			c.putLocked(hash, v)
		}
	}
	return v
}

func (c *cache) put(hash [sha256.Size]byte, v *verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(hash, v)
}

func (c *cache) putLocked(hash [sha256.Size]byte, v *verified) {
	if c.young == nil || len(c.young) >= maxVerified {
		c.young, c.old = make(map[[sha256.Size]byte]*verified), c.young
	}
	c.young[hash] = v
}
