/** What a page says when there is nothing yet, nothing at all, or something wrong; and toasts, which come and go. */

import { h, icon } from "../dom.js";
import { explained } from "../reasons.js";

const TOAST_LIFE = 8000; // milliseconds: two lines are read in less
const MOST_TOASTS = 3;

/** @param {string} what "your orders" */
export function loading(what) {
  return h("p", { class: "loading", role: "status" }, `Loading ${what}…`);
}

/**
 * @param {string} title
 * @param {string} advice what to do about it
 */
export function empty(title, advice) {
  return h("div", { class: "empty" }, icon("empty"), h("p", {}, h("strong", {}, title)), h("p", {}, advice));
}

/**
 * A failure, with what to do about it.
 * @param {unknown} error
 * @param {() => void} [again]
 */
export function failed(error, again) {
  const { title, advice, reason } = explained(error);
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    icon("warning"),
    h("div", {}, h("p", {}, h("strong", {}, title)), advice && h("p", {}, advice), h("p", { class: "code" }, reason)),
    again && h("button", { type: "button", class: "quiet", on: { click: again } }, "Try again"),
  );
}

/**
 * @param {"info" | "good" | "warn" | "bad"} tone
 * @param {string} title
 * @param {string} [text]
 */
export function notice(tone, title, text) {
  return h(
    "div",
    { class: `notice ${tone}` },
    icon(tone === "good" ? "check" : tone === "info" ? "info" : "warning"),
    h("div", {}, h("p", {}, h("strong", {}, title)), text && h("p", {}, text)),
  );
}

/** The corner in which news appear. */
export class Toasts {
  /** @param {HTMLElement} corner */
  constructor(corner) {
    this.#corner = corner;
  }

  /** @type {HTMLElement} */
  #corner;
  #over = false;

  /** Takes all away, and shows nothing any more: what is still on its way is not for whoever sits here now. */
  end() {
    this.#over = true;
    this.#corner.replaceChildren();
  }

  /**
   * Shows something for a while; bad news wait to be closed.
   * @param {string} title
   * @param {{text?: string, tone?: "info" | "good" | "bad", again?: () => void}} [more]
   */
  show(title, { text = "", tone = "info", again } = {}) {
    if (this.#over) return;
    const toast = h(
      "div",
      { class: `toast ${tone}`, role: tone === "bad" ? "alert" : "status" },
      icon(tone === "good" ? "check" : tone === "bad" ? "warning" : "bell"),
      h(
        "div",
        {},
        h("p", {}, h("strong", {}, title)),
        text && h("p", {}, text),
        again && h("p", {}, h("button", { type: "button", class: "link", on: { click: again } }, "Try again")),
      ),
      h(
        "button",
        { type: "button", class: "bare", "aria-label": "Close", on: { click: () => toast.remove() } },
        icon("cross"),
      ),
    );
    this.#corner.append(toast);
    while (this.#corner.children.length > MOST_TOASTS) this.#corner.firstElementChild?.remove();
    if (tone !== "bad") this.#fade(toast);
  }

  /** @param {unknown} error */
  failure(error) {
    const { title, advice } = explained(error);
    this.show(title, { text: advice, tone: "bad" });
  }

  /**
   * Goes after a while, but not from under a pointer or the focus.
   * @param {HTMLElement} toast
   */
  #fade(toast) {
    setTimeout(() => {
      if (toast.matches(":hover, :focus-within")) this.#fade(toast);
      else toast.remove();
    }, TOAST_LIFE);
  }
}
