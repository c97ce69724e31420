// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

const FIRST = 'Bold Brisk Calm Clever Cosmic Curious Dapper Gentle Jolly Lucky Mellow Nimble Quiet Sunny Swift Witty'.split(' ');
const SECOND = 'Badger Comet Dolphin Falcon Gecko Heron Koala Lynx Maple Otter Panda Puffin Robin Tiger Walrus Wombat'.split(' ');

/** @returns {string} a friendly name for a visitor without one */
export function randomName() {
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  return `${pick(FIRST)} ${pick(SECOND)}`;
}

/**
 * @param {string} name
 * @returns {number} the colour that always goes with the name: a hue in degrees
 */
export function hue(name) {
  let hash = 0x811c9dc5; // FNV-1a
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
  return (hash >>> 8) % 360;
}

/**
 * @param {string} name
 * @returns {string} up to two letters that stand for the name
 */
export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean).slice(0, 2);
  return words.map((word) => [...word][0].toUpperCase()).join('');
}

/**
 * Sets the letters and the colour of the element's avatar, and what else the style needs.
 * @param {HTMLElement} element
 * @param {string} name
 */
export function paint(element, name) {
  element.querySelector('.avatar').textContent = initials(name);
  element.style.setProperty('--hue', String(hue(name)));
}
