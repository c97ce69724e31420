// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The classic script, pushit.js: the global PushIt, or what require('pushit') returns. */

import { PushIt } from './pushit.js';

PushIt._script = globalThis.document?.currentScript?.src;

if (typeof module === 'object') module.exports = PushIt;
else globalThis.PushIt = PushIt;
