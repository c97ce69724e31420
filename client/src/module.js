// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The ES module: pushit.mjs. */

import { PushIt } from './pushit.js';

PushIt._script = import.meta.url;

export { PushIt as default, PushIt };
export { Refusal } from './refusal.js';
