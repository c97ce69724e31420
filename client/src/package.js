// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The package, as bundlers load it: index.mjs. It does not come from an endpoint, so
 * it has no use for `import.meta`. Bundlers replace that by a path of the machine
 * they run on, and CommonJS has none.
 */

import { PushIt } from './pushit.js';

PushIt._script = '@pushit/client';

export { PushIt as default, PushIt };
export { Refusal } from './refusal.js';
