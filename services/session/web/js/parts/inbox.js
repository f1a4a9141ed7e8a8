/** The inbox: what one was told, newest first, and the bell that counts what is unread. */

import { each, fill, h, icon, say } from "../dom.js";
import { ago, inFull } from "../format.js";
import { empty, failed } from "./messages.js";

const PAGE = 30;

/**
 * @typedef {{id: string, sequence: number, kind: string, category: string, title: string, body: string, about: string,
 *   created_at: string, read_at: string | null}} Notification
 */

/** Tells of `changed`; `unread` counts the whole inbox, `notifications` holds the newest. */
export class Inbox extends EventTarget {
  /** @param {import("../api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
  }

  /** @type {import("../api.js").Api} */
  #api;
  /** @type {Notification[]} */
  notifications = [];
  unread = 0;
  /** @type {unknown} */
  failure = null;

  /** Reads it anew. What arrived by the stream in the meantime stays. */
  async load() {
    try {
      const page = await this.#api.get(`/api/notifications?page_size=${PAGE}`);
      const last = page.notifications[0]?.sequence ?? 0;
      const since = this.notifications.filter(({ sequence }) => sequence > last);
      this.notifications = [...since, ...page.notifications];
      this.unread = page.unread_count + since.filter((one) => !one.read_at).length;
      this.failure = null;
    } catch (error) {
      this.failure = error;
    }
    this.#tell();
  }

  /**
   * Takes one in from the stream; false if it is known already.
   * @param {Notification} notification
   */
  arrived(notification) {
    if (this.notifications.some(({ id }) => id === notification.id)) return false;
    this.notifications = [notification, ...this.notifications];
    if (!notification.read_at) this.unread += 1;
    this.#tell();
    return true;
  }

  /** @param {Notification} notification */
  async read(notification) {
    if (notification.read_at) return;
    const read = await this.#api.post(`/api/notifications/${notification.id}/read`);
    this.notifications = this.notifications.map((one) => (one.id === read.id ? read : one));
    this.unread = Math.max(0, this.unread - 1);
    this.#tell();
  }

  /** Marks all as read, also what is older than what is shown, one by one: each is a fact of its own. */
  async readAll() {
    for (let token = ""; ; ) {
      const page = await this.#api.get(`/api/notifications?page_size=100&page_token=${encodeURIComponent(token)}`);
      for (const one of page.notifications) if (!one.read_at) await this.#api.post(`/api/notifications/${one.id}/read`);
      token = page.next_page_token;
      if (!token) break;
    }
    await this.load();
  }

  #tell() {
    this.dispatchEvent(new Event("changed"));
  }
}

/**
 * The bell with its panel.
 * @param {Inbox} inbox
 * @param {import("./messages.js").Toasts} toasts
 * @returns {{button: HTMLElement, panel: HTMLElement}}
 */
export function bell(inbox, toasts) {
  const number = h("span", { class: "badge", hidden: true });
  const button = h("button", { type: "button", class: "bare", popovertarget: "inbox" }, icon("bell"), number);
  const items = h("ul", { class: "inbox-list" });
  const above = h("div", {});
  const all = h(
    "button",
    { type: "button", class: "link", on: { click: () => tried(inbox.readAll()) } },
    "Mark all read",
  );
  const panel = h(
    "section",
    { id: "inbox", class: "panel inbox", popover: "auto", "aria-labelledby": "inbox-title" },
    h("header", {}, h("h2", { id: "inbox-title" }, "Inbox"), all),
    above,
    items,
  );

  /** @param {Promise<unknown>} work */
  const tried = (work) => work.catch((error) => toasts.failure(error));

  function show() {
    number.hidden = inbox.unread === 0;
    say(number, inbox.unread > 99 ? "99+" : String(inbox.unread));
    button.setAttribute("aria-label", inbox.unread ? `Inbox, ${inbox.unread} unread` : "Inbox, nothing unread");
    all.hidden = inbox.unread === 0;
    if (inbox.failure)
      fill(
        above,
        failed(inbox.failure, () => void inbox.load()),
      );
    else if (inbox.notifications.length === 0)
      fill(above, empty("Nothing yet", "What happens to your orders and sign-ins is told here."));
    else fill(above);
    each(items, inbox.notifications, {
      key: (one) => one.id,
      make: (one) => entry(one, () => void tried(inbox.read(one))),
      update: (element, one) => {
        element.classList.toggle("unread", !one.read_at);
        const when = element.querySelector("time");
        if (when) say(when, ago(one.created_at));
        const mark = element.querySelector("button");
        if (mark) mark.hidden = Boolean(one.read_at);
      },
    });
  }

  inbox.addEventListener("changed", show);
  panel.addEventListener("toggle", show);
  show();
  return { button, panel };
}

/**
 * @param {Notification} one
 * @param {() => void} read
 */
function entry(one, read) {
  return h(
    "li",
    { class: "inbox-entry" },
    h("p", { class: "inbox-what" }, h("strong", {}, one.title)),
    one.body && h("p", {}, one.body),
    h(
      "p",
      { class: "small" },
      h("time", { datetime: one.created_at, title: inFull(one.created_at) }),
      h(
        "button",
        { type: "button", class: "link", "aria-label": `Mark read: ${one.title}`, on: { click: read } },
        "Mark read",
      ),
    ),
  );
}
