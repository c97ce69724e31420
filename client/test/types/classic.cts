// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The classic script, as CommonJS has it. */

import classic = require('@pushit/client/classic');
// @ts-expect-error it exports nothing
classic.PushIt;

const push = new PushIt<{ news: string }>({ endpoint: '/push' });
push.channel('news').publish('Hello');
