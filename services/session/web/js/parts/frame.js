/** What stands around every page: the bar on top, the tabs below it on a phone, the bell, and the person's own menu. */

import { fill, h, icon, say } from "../dom.js";
import { bell } from "./inbox.js";

/** @type {Record<import("../live.js").LiveState, string>} */
const STATES = {
  connecting: "Connecting to the live stream",
  open: "Live: news arrive as they happen",
  waiting: "The live stream is broken; connecting again",
  ended: "The live stream has ended",
};

/**
 * The frame of somebody who is not signed in.
 * @param {() => void} signIn
 */
export function openFrame(signIn) {
  const button = h("button", { type: "button", class: "primary", on: { click: signIn } }, "Sign in");
  fill(part("top"), brand(), h("div", { class: "tools" }, theme(), button));
  fill(part("tabs"));
  document.body.classList.remove("signed-in");
}

/**
 * The frame of a person.
 * @param {import("../app.js").App} app
 * @param {readonly import("../app.js").Page[]} pages those that they may open
 */
export function personFrame(app, pages) {
  const { button, panel } = bell(app.inbox, app.toasts);
  const tabs = pages.filter((page) => page.icon);
  fill(
    part("top"),
    brand(),
    h("nav", { class: "links", "aria-label": "Pages" }, ...tabs.map((page) => link(page, page.title))),
    h("div", { class: "tools" }, status(app.live), theme(), button, person(app)),
    panel,
    menu(app),
  );
  fill(part("tabs"), ...tabs.map((page) => link(page, page.tab ?? page.title)));
  document.body.classList.add("signed-in");
}

/**
 * Marks the page that is open.
 * @param {string} path
 */
export function markOpen(path) {
  for (const one of document.querySelectorAll("[data-page]")) {
    if (/** @type {HTMLElement} */ (one).dataset.page === path) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
}

function brand() {
  const image = h("img", { src: "/static/icon.svg", alt: "", width: 28, height: 28 });
  return h("a", { class: "brand", href: "#/" }, image, h("span", {}, "Rescind"));
}

/**
 * @param {import("../app.js").Page} page
 * @param {string} name
 */
function link({ path, icon: picture = "" }, name) {
  return h("a", { href: `#${path}`, data: { page: path } }, icon(picture), h("span", {}, name));
}

function theme() {
  const turn = () => dispatchEvent(new Event("rescind:theme"));
  return h(
    "button",
    { type: "button", class: "bare", "aria-label": "Light or dark", on: { click: turn } },
    icon("theme"),
  );
}

/** @param {import("../live.js").Live} live */
function status(live) {
  const text = h("span", { class: "unseen" });
  const dot = h("span", { class: "live", role: "status" }, text);
  const show = () => {
    dot.dataset.state = live.state;
    dot.title = STATES[live.state];
    say(text, STATES[live.state]);
  };
  live.addEventListener("state", show);
  show();
  return dot;
}

/** @param {import("../app.js").App} app */
function person({ me }) {
  const initials = (me.name || me.email || "?")
    .split(/\s+/)
    .map((word) => word[0])
    .slice(0, 2)
    .join("")
    .toUpperCase();
  const label = `Account of ${me.name || me.email}`;
  return h("button", { type: "button", class: "initials", popovertarget: "account", "aria-label": label }, initials);
}

/** @param {import("../app.js").App} app */
function menu(app) {
  const close = () => panel.hidePopover();
  const panel = h(
    "section",
    { id: "account", class: "panel account", popover: "auto", "aria-label": "Account" },
    h("p", { class: "account-name" }, h("strong", {}, app.me.name || "Signed in"), h("span", {}, app.me.email ?? "")),
    h("a", { href: "#/preferences", on: { click: close } }, icon("preferences"), "Preferences"),
    h("a", { href: "#/devices", on: { click: close } }, icon("devices"), "Devices and apps"),
    h("button", { type: "button", on: { click: () => void app.signOut() } }, icon("out"), "Sign out"),
  );
  return panel;
}

/** @param {string} id */
function part(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
