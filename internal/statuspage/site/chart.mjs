// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Small charts of the last minutes. */

const POINTS = 60;
const HEIGHT = 40;

function svg(tag, attributes) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A line that grows to the right, and loses its beginning. */
export class Chart {
  #values = [];
  #area = svg('path', { class: 'area' });
  #line = svg('path', { class: 'line' });
  #name;
  #format;

  /** @param {string} name  what it shows, for those who cannot see it */
  constructor(name, format) {
    this.#name = name;
    this.#format = format;
    this.element = svg('svg', { viewBox: `0 0 ${POINTS - 1} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' });
    this.element.append(this.#area, this.#line);
    this.#draw();
  }

  /** The largest value that is shown. */
  get #most() {
    return Math.max(0, ...this.#values.filter((value) => value !== null));
  }

  /** Adds a value; null is a gap. */
  add(value) {
    this.#values.push(value);
    if (this.#values.length > POINTS) this.#values.shift();
    this.#draw();
  }

  clear() {
    this.#values = [];
    this.#draw();
  }

  #draw() {
    const top = this.#most || 1;
    const first = POINTS - this.#values.length;
    let line = '';
    let area = '';
    let begun;
    const end = (x) => {
      if (begun !== undefined) area += `L${x} ${HEIGHT}L${begun} ${HEIGHT}Z`;
      begun = undefined;
    };
    this.#values.forEach((value, n) => {
      const x = first + n;
      if (value === null) {
        end(x - 1);
        return;
      }
      const point = `${x} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(2)}`;
      line += (begun === undefined ? 'M' : 'L') + point;
      area += (begun === undefined ? 'M' : 'L') + point;
      begun ??= x;
    });
    end(POINTS - 1);
    this.#line.setAttribute('d', line);
    this.#area.setAttribute('d', area);
    const now = this.#values.at(-1);
    this.element.setAttribute('aria-label', now === undefined || now === null ? `${this.#name}: not known yet` : `${this.#name}: ${this.#format(now)} now, ${this.#format(this.#most)} at most in the last minutes`);
  }
}
