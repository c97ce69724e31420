// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"sync"
)

// maxVerified is the most tokens in each half of a cache: with claims of a
// kilobyte both are some 20 MB.
const maxVerified = 4096

// A verified is what a token was found to say, which is true until it expires,
// and while the set that has its key is current.
type verified struct {
	token *Token
	set   *Set // nil: the key is not of a set that changes
}

// A cache remembers tokens that were verified, by their hash: an agent
// whose every publish is asked about presents the same one each time. When the
// young half is full, it becomes the old one, and what of that was not asked for
// again is forgotten. Tokens that are not valid are not remembered.
type cache struct {
	mu         sync.Mutex // guards the following
	young, old map[[sha256.Size]byte]*verified
}

// get returns what is known of the token, nil if nothing is.
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
