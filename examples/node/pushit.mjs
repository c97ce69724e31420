// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

import { randomUUID } from "node:crypto";

const ATTEMPTS = 3;

/**
 * Publishes a message. It may be sent more than once: the uuid sees to it that it is
 * published once. Give your own if you may call this again for the same message.
 *
 * @param {string} channel
 * @param {unknown} data  anything that JSON can say
 * @param {string} [uuid]
 * @returns {Promise<void>} rejected if it was not published
 */
export async function publish(channel, data, uuid = randomUUID()) {
  const body = JSON.stringify({ channel, data, uuid });
  for (let attempt = 1; ; attempt++) {
    const { status, text } = await send(body);
    if (status === 200) return check(text);
    // Without an answer, nobody knows whether it was published. So send it again.
    const again = status === 0 || status === 429 || status >= 500;
    if (!again || attempt === ATTEMPTS) throw new Error(`publishing on ${channel}: ${status ? `HTTP ${status}: ` : ""}${text}`);
    await new Promise((resolve) => setTimeout(resolve, 250 * attempt));
  }
}

/** @param {string} body */
async function send(body) {
  const { PUSHIT_URL = "http://localhost:8080/push", PUBLISHER_SECRET } = process.env;
  try {
    const response = await fetch(`${PUSHIT_URL}/publish`, {
      method: "POST",
      headers: { Authorization: `Bearer ${PUBLISHER_SECRET}`, "Content-Type": "application/json" },
      body,
      redirect: "manual",
      signal: AbortSignal.timeout(3_000),
    });
    return { status: response.status, text: (await response.text()).trim().slice(0, 1000) };
  } catch (error) {
    return { status: 0, text: String(error) };
  }
}

/** @param {string} text */
function check(text) {
  try {
    if (JSON.parse(text).uuid) return;
  } catch {
    // it is not JSON
  }
  // Another page, such as one that is there for every address, is no success.
  throw new Error("PUSHIT_URL is no endpoint of pushit");
}
