// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The package as CommonJS has it. */

import PushIt, { PushIt as Same, Refusal } from '@pushit/client';
import required = require('@pushit/client');

interface Payloads {
  news: { title: string };
}

const push: Same<Payloads> = new PushIt<Payloads>({ endpoint: 'https://example.com/push', channels: ['news'] });
push.publish('news', { title: 'Hello' });
// @ts-expect-error a misspelt channel
push.publish('nwes', { title: 'Hello' });
push.on('error', (error) => error instanceof Refusal && error.final);
const other: Same = new required.PushIt();
const third: Same = new required.default();
// @ts-expect-error the module is no class itself
new required();
// @ts-expect-error the module makes no global
globalThis.PushIt;
// @ts-expect-error the module makes no global
window.PushIt;

export = [other, third];
