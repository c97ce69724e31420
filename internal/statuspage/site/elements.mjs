// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** Elements of the page. All text is set as text: nothing from the server becomes HTML. */

export const $ = (id) => document.getElementById(id);

/** Makes an element: `el('td.number', '5')`. Children are elements and texts; others are left out. */
export function el(what, ...children) {
  const [tag, ...classes] = what.split('.');
  const element = document.createElement(tag);
  element.classList.add(...classes);
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Makes a cell of a table. The roles stay when a narrow screen shows the table as a list. */
export function cell(what, ...children) {
  const td = el(what, ...children);
  td.setAttribute('role', 'cell');
  return td;
}

/** Makes a row of a table. */
export function row(...cells) {
  const tr = el('tr', ...cells);
  tr.setAttribute('role', 'row');
  return tr;
}

/** A text that ends in an ellipsis if it does not fit. */
export function cut(text, what = 'span.cut') {
  const element = el(what, text);
  element.title = text;
  return element;
}

/** A time, with the full date as its tooltip. */
export function time(at, text) {
  const element = el('time', text);
  element.dateTime = at;
  element.title = new Date(at).toLocaleString();
  return element;
}

/** Makes an element look as a fresh one does. What is the same already stays, with the focus and the selection in it. */
function becomes(element, fresh) {
  if (element.isEqualNode(fresh)) return element;
  if (element.tagName !== fresh.tagName || element.childElementCount === 0 || element.childNodes.length !== fresh.childNodes.length) return fresh;
  [...fresh.childNodes].forEach((child, n) => {
    const old = element.childNodes[n];
    const now = old.nodeType === Node.ELEMENT_NODE && child.nodeType === Node.ELEMENT_NODE ? becomes(old, child) : child;
    if (now !== old) old.replaceWith(now);
  });
  for (const { name, value } of fresh.attributes) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  return element;
}

/** Shows a list of items as children of parent, each with a key. */
export function show(parent, items, keyOf, make) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : undefined;
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const children = items.map((item) => {
    const key = keyOf(item);
    const fresh = make(item);
    fresh.dataset.key = key;
    const before = old.get(key);
    old.delete(key);
    return before ? becomes(before, fresh) : fresh;
  });
  if (children.length !== parent.children.length || children.some((child, n) => child !== parent.children[n])) {
    parent.replaceChildren(...children);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
  }
}
