// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The classic script, pushit.js: the global PushIt. */

import { PushIt } from './pushit.js';

PushIt._script = globalThis.document?.currentScript?.src;

globalThis.PushIt = PushIt;
