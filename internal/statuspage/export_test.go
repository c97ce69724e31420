// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"context"
	"time"

	"github.com/push-it/pushit/hub"
)

// Slow makes each reading of p take that time. reads is called with the number of readings
// that run.
func (p *Page) Slow(each time.Duration, reads func(n int)) {
	read, running := p.read, 0
	p.read = func(ctx context.Context, h *hub.Hub, q *query) (*state, error) {
		running++
		reads(running)
		time.Sleep(each)
		running--
		return read(ctx, h, q)
	}
}
