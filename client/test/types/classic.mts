// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The classic script, which exports nothing, and makes a global. */

import '@pushit/client/classic';
// @ts-expect-error it exports nothing
import type { PushIt as None } from '@pushit/client/classic';
// @ts-expect-error nor that
import type { Refusal } from '@pushit/client/classic';

const push = new PushIt<{ news: string }>({ endpoint: '/push' });
push.publish('news', 'Hello');
// @ts-expect-error a misspelt channel
push.publish('nwes', 'Hello');
push.on('error', (error) => error instanceof PushIt.Refusal && error.final);
new globalThis.PushIt();
new window.PushIt();
