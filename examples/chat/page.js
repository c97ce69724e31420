// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Code that the pages of the chat and of the members' area share.
 *
 * @module
 */

export const $ = (name) => document.getElementById(name);

/** @returns {HTMLElement} a copy of the template's contents */
export function fromTemplate(name) {
  return $(name).content.firstElementChild.cloneNode(true);
}

/** Turns a reason such as `not today` into a sentence. */
export function sentence(reason) {
  return reason.charAt(0).toUpperCase() + reason.slice(1).replace(/[^.!?]$/, '$&.');
}

const WORDS = { connecting: 'Connecting…', connected: 'Connected', disconnected: 'Reconnecting', closed: 'Closed' };

/**
 * Shows the state of the connection, and the reason if there is none.
 *
 * @param {import('../../client/src/pushit.d.ts').PushIt} push
 */
export function showConnection(push) {
  const show = ({ name, reason }) => {
    $('state').dataset.state = name;
    $('state').textContent = WORDS[name];
    // The notice stays while a new attempt runs, so that the page does not jump.
    if (name === 'connected') $('notice').hidden = true;
    if (reason) {
      $('notice').hidden = false;
      $('reason').textContent = sentence(reason);
    }
  };
  push.on('state', show);
  show(push.state);
  $('reconnect').addEventListener('click', () => push.connect());
}
