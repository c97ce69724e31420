// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub_test

import (
	"testing"

	"github.com/push-it/pushit/hub"
	"github.com/push-it/pushit/hub/brokertest"
)

func TestMemoryBroker(t *testing.T) {
	brokertest.Run(t, func(*testing.T) brokertest.Log {
		b := hub.NewMemoryBroker()
		return brokertest.Log{Open: func(testing.TB) hub.Broker { return b }}
	})
}
