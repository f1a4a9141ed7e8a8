/** Which model for which client, with what each costs: the short form of docs/choosing.md. */

import { h } from "../dom.js";

const MODELS = ["Session cookie", "JWT access token", "OAuth 2.0 with refresh token"];

/** @type {[string, string, string, string][]} */
const TRADE_OFFS = [
  [
    "Who holds it",
    "the browser, as a cookie no script can read",
    "services, and clients that are not browsers",
    "a backend, or a phone's key store",
  ],
  [
    "A request costs",
    "one look into a shared store",
    "a signature check, remembered for the token's life",
    "nothing: it is used when a token ends",
  ],
  [
    "Taken back",
    "at once: the session is deleted",
    "by expiry; with Rescind, in milliseconds",
    "at once: no refresh any more",
  ],
  [
    "If the store is down",
    "nobody gets in",
    "services go on, for as long as each route allows",
    "no new tokens; those that live go on",
  ],
  [
    "If it is stolen",
    "works until it ends, from anywhere",
    "works at one service until it ends or is revoked",
    "the second use ends the whole family",
  ],
  [
    "Grows with",
    "people signed in at the same time",
    "nothing; the denylist, with what was revoked lately",
    "grants that people gave",
  ],
];

/** @type {[string, string, string][]} */
const CLIENTS = [
  ["Web app with a backend", "Session cookie; tokens stay behind it (BFF)", "This page works like that."],
  [
    "Single-page app without a backend",
    "Give it one: the same BFF",
    "A script's storage is readable by every script on the page.",
  ],
  [
    "Phone or desktop app",
    "OAuth 2.0: code + PKCE in the system's browser",
    "RFC 8252; the refresh token into the key store.",
  ],
  ["Command line, television", "OAuth 2.0: device grant", "RFC 8628; the password is typed elsewhere."],
  ["A service of ours", "JWT by client credentials, one audience", "It has no session and no person."],
  ["A third party", "OAuth 2.0 with consent and narrow scopes", "People see it in Devices and take it back there."],
  ["One server, one app", "A plain session", "Nothing else here would pay for itself."],
];

/** Both tables. */
export function comparison() {
  return h(
    "section",
    { class: "part", "aria-labelledby": "which" },
    h("h2", { id: "which" }, "Which one, when"),
    scrolling(
      "Which model for which client",
      h("thead", {}, row("th", ["Client", "Use", "Because"])),
      h("tbody", {}, ...CLIENTS.map((cells) => row("td", cells))),
    ),
    h("h2", {}, "What each of them costs"),
    scrolling(
      "Trade-offs of the three models",
      h("thead", {}, row("th", ["", ...MODELS])),
      h("tbody", {}, ...TRADE_OFFS.map((cells) => row("td", cells))),
    ),
  );
}

/** Where more is said. */
export function readOn() {
  /** @type {[string, string][]} */
  const links = [
    ["https://www.rfc-editor.org/rfc/rfc9700", "OAuth 2.0 security, best current practice (RFC 9700)"],
    ["https://www.rfc-editor.org/rfc/rfc9068", "JWT access tokens (RFC 9068)"],
    ["https://www.rfc-editor.org/rfc/rfc8725", "JWT, best current practice (RFC 8725)"],
    ["https://www.rfc-editor.org/rfc/rfc8252", "OAuth 2.0 for native apps (RFC 8252)"],
    ["https://www.rfc-editor.org/rfc/rfc10017", "OAuth 2.0 for browser-based applications (RFC 10017)"],
  ];
  return h(
    "section",
    { class: "part", "aria-labelledby": "read-on" },
    h("h2", { id: "read-on" }, "Read on"),
    h(
      "p",
      {},
      "In the repository: ",
      h("code", {}, "docs/choosing.md"),
      " weighs all this at length; ",
      h("code", {}, "docs/revocation.md"),
      " tells how taking back works.",
    ),
    h(
      "ul",
      { class: "plain" },
      ...links.map(([href, text]) => h("li", {}, h("a", { href, rel: "noreferrer noopener" }, text))),
    ),
  );
}

/**
 * A table that scrolls in itself where it is too wide: by touch, and by keyboard.
 * @param {string} label
 * @param {...HTMLElement} parts
 */
function scrolling(label, ...parts) {
  return h("div", { class: "scrolling", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, ...parts));
}

/**
 * @param {"th" | "td"} tag
 * @param {string[]} cells
 */
function row(tag, cells) {
  const scope = tag === "th" ? "col" : undefined;
  return h(
    "tr",
    {},
    ...cells.map((cell, place) =>
      tag === "td" && place === 0
        ? h("th", { scope: "row" }, cell)
        : cell === ""
          ? h("td", {})
          : h(tag, { scope }, cell),
    ),
  );
}
