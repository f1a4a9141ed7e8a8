/** A device as a card: what it is, where and when it was used, and the apps that hang on it. */

import { each, fill, h, icon, say } from "../dom.js";
import { ago, inFull, left, short } from "../format.js";

/**
 * @typedef {{gid: string, client_id: string, client_name: string, scopes: string[], created_at: string,
 *   expires_at: string, first_party: boolean}} AppAccess
 * @typedef {{id?: string, sid: string, device?: string, address?: string, created_at: string, last_used_at?: string,
 *   expires_at: string, current: boolean, apps: AppAccess[]}} Device
 */

/** What a scope lets an app do, as the consent page of identity says it. */
const SCOPES = /** @type {Record<string, string>} */ ({
  openid: "know who you are",
  profile: "see your name",
  email: "see your e-mail address",
  offline_access: "go on while you are away",
  "orders:read": "see your orders",
  "orders:write": "place and cancel orders",
  "orders:admin": "see and change everybody's orders",
  "notifications:read": "see your notifications",
  "identity:admin": "administer accounts and keys",
});

/**
 * The card. It is brought up to date by an event `shown` whose detail is the device as it is now.
 * @param {Device} device
 * @param {{end?: () => Promise<void>, withdraw: (access: AppAccess) => Promise<void>}} acts
 */
export function deviceCard(device, { end, withdraw }) {
  const phone = /iphone|android|phone|mobile/i.test(device.device ?? "");
  const name = device.device || "Unknown device";
  const used = h("dd", {});
  const over = h("dd", {});
  const apps = h("ul", { class: "apps" });
  const card = h(
    "li",
    { class: device.current ? "device card this" : "device card" },
    h(
      "header",
      {},
      h("span", { class: "device-picture" }, icon(phone ? "phone" : "desktop")),
      h("div", {}, h("h3", {}, name), device.current && h("span", { class: "tag good" }, "this one")),
      end &&
        h(
          "button",
          { type: "button", class: device.current ? "quiet" : "quiet danger-text", on: { click: () => void end() } },
          "Sign out",
        ),
    ),
    h(
      "dl",
      { class: "facts" },
      fact("Network", device.address || "unknown"),
      fact(
        "Signed in",
        h("time", { datetime: device.created_at, title: inFull(device.created_at) }, ago(device.created_at)),
      ),
      device.last_used_at && h("div", {}, h("dt", {}, "Last used"), used),
      h("div", {}, h("dt", {}, "Ends in"), over),
      fact("Login session", h("code", { title: device.sid }, short(device.sid, 14))),
    ),
    h("details", { class: "device-apps" }, h("summary", {}, "Apps"), apps),
  );
  const show = (/** @type {Device} */ now) => {
    if (now.last_used_at) say(used, ago(now.last_used_at));
    say(over, left(now.expires_at));
    const summary = card.querySelector("summary");
    if (summary) say(summary, now.apps.length === 1 ? `1 app: ${now.apps[0]?.client_name}` : `${now.apps.length} apps`);
    looseApps(apps, now.apps, withdraw);
  };
  card.addEventListener("shown", (event) => show(/** @type {CustomEvent} */ (event).detail));
  return card;
}

/**
 * Apps, each with what it may do and a way to take that back.
 * @param {HTMLElement} list
 * @param {readonly AppAccess[]} apps
 * @param {(access: AppAccess) => Promise<void>} withdraw
 */
export function looseApps(list, apps, withdraw) {
  each(list, apps, {
    key: ({ gid }) => gid,
    make: (access) => h("li", { class: "access" }, ...appParts(access, withdraw)),
    update: (element, access) => {
      const ends = element.querySelector("[data-ends]");
      if (ends) say(ends, `ends in ${left(access.expires_at)}`);
    },
  });
}

/**
 * @param {AppAccess} access
 * @param {(access: AppAccess) => Promise<void>} withdraw
 */
function appParts(access, withdraw) {
  const remove = () => void withdraw(access);
  return [
    h("span", { class: "device-picture" }, icon("app")),
    h(
      "div",
      {},
      h(
        "p",
        {},
        h("strong", {}, access.client_name),
        " ",
        h("span", { class: "tag" }, access.first_party ? "our own" : "third party"),
      ),
      h("p", { class: "small" }, "May ", access.scopes.map((scope) => SCOPES[scope] ?? scope).join(", "), "."),
      h(
        "p",
        { class: "small" },
        `given ${ago(access.created_at)}, `,
        h("span", { data: { ends: "" } }),
        ", grant ",
        h("code", { title: access.gid }, short(access.gid, 14)),
      ),
    ),
    h(
      "button",
      { type: "button", class: "quiet", "aria-label": `Take back: ${access.client_name}`, on: { click: remove } },
      "Take back",
    ),
  ];
}

/**
 * @param {string} term
 * @param {import("../dom.js").Child} value
 */
function fact(term, value) {
  return h("div", {}, h("dt", {}, term), fill(h("dd", {}), value));
}
