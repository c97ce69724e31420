// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/** The chat of examples/chat as a visitor sees it. */
export class ChatPage {
  /** @param {import('puppeteer-core').Page} page */
  constructor(page) {
    this.page = page;
  }

  /** Opens the chat and waits until it is connected and in its channel. */
  static async open(browser, url, options) {
    const chat = new ChatPage(await browser.open(url, options));
    await chat.is('connected');
    return chat;
  }

  /** Waits for the connection's state. */
  async is(state) {
    await this.page.waitForSelector(`#state[data-state="${state}"]`);
  }

  async enter(channel) {
    await this.page.click(`.rooms a[href="#${channel}"]`);
    await this.page.waitForSelector(`.rooms a[href="#${channel}"][aria-current]`);
  }

  async join(channel) {
    await this.page.click('#join');
    await this.page.type('#channel', channel);
    await this.page.keyboard.press('Enter');
    await this.page.waitForFunction((name) => document.querySelector('[aria-current] .channel')?.textContent === name, {}, channel);
  }

  async rename(name) {
    await this.page.click('#me');
    await this.page.$eval('#name', (input) => input.select());
    await this.page.type('#name', name);
    await this.page.keyboard.press('Enter');
    await this.page.waitForFunction((want) => document.querySelector('#me .name').textContent === want, {}, name);
  }

  /** Sends a message as a visitor does. Its entry shows the result. */
  async say(text) {
    await this.page.type('#text', text);
    await this.page.keyboard.press('Enter');
  }

  /** Puts a text that is too long to type into the composer, and sends it. */
  async paste(text) {
    await this.page.$eval('#text', (area, value) => (area.value = value), text);
    await this.page.focus('#text');
    await this.page.keyboard.press('Enter');
  }

  /** Waits for an entry of the open channel with the text and the status. */
  async sees(text, status = 'sent') {
    await this.page.waitForFunction(
      (wanted, want) =>
        [...document.querySelectorAll(`#log li[data-status="${want}"] .text`)].some((element) => element.textContent === wanted),
      {},
      text,
      status,
    );
  }

  /** @returns {Promise<{name: string, text: string, status: string, mine: boolean}[]>} of the open channel */
  entries() {
    return this.page.$$eval('#log li:not(.mark)', (items) =>
      items.map((item) => ({
        name: item.querySelector('.name').textContent,
        text: item.querySelector('.text').textContent,
        status: item.dataset.status,
        mine: item.classList.contains('mine'),
      })),
    );
  }

  /** What the page itself has written between the messages. */
  marks() {
    return this.page.$$eval('#log .mark', (items) => items.map((item) => item.textContent.trim()));
  }

  /** Waits for a line of the page between the messages. */
  async marked(words) {
    await this.page.waitForFunction((wanted) => [...document.querySelectorAll('#log .mark')].some((item) => item.textContent.trim() === wanted), {}, words);
  }

  /** Waits until the line above the room says so. */
  async here(words) {
    await this.page.waitForFunction((want) => document.querySelector('#who').textContent === want, {}, words);
  }

  texts() {
    return this.page.$$eval('#log .text', (elements) => elements.map((element) => element.textContent));
  }

  /** What a page must not have: complaints on its console, violations of its Content-Security-Policy. */
  async complaints() {
    return [...this.page.complaints, ...(await this.page.evaluate(() => window.violations))];
  }
}
