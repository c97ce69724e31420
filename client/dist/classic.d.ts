// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The types of the classic script in the package: it exports nothing, and makes a global. */

import type { PushIt as Client } from './index.cjs';

declare global {
  var PushIt: typeof Client;
}

export {};
