// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The package, as bundlers load it: index.mjs. It does not come from an endpoint, so it
 * does not use `import.meta`. Bundlers would replace it by a path of the build machine, and
 * CommonJS does not have it.
 */

import { PushIt } from './pushit.js';

PushIt._script = '@pushit/client';

export { PushIt as default, PushIt };
export { Refusal } from './refusal.js';
