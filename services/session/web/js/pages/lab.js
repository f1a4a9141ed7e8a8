/** The token lab: the three models side by side, with what is really there for the person who looks. */

import { fill, h, icon, say } from "../dom.js";
import { ago, inFull, left } from "../format.js";
import { explainedClaims } from "../parts/claims.js";
import { comparison, readOn } from "../parts/comparison.js";
import { failed, loading } from "../parts/messages.js";
import { repeatedly } from "../parts/polling.js";

const TICK = 1000; // milliseconds

/** @type {import("../app.js").Page} */
export const lab = { path: "/lab", title: "Token lab", icon: "lab", tab: "Tokens", open };

/** @param {import("../app.js").View} view */
function open({ root, app: { api }, signal }) {
  const content = h("div", {}, loading("what is there for you"));

  async function read() {
    try {
      const said = await api.get("/api/lab", signal);
      const opened = h("div", {});
      fill(
        content,
        h("div", { class: "lab" }, cookieCard(said), tokensCard(said, opened), refreshCard(said)),
        opened,
        comparison(),
        readOn(),
      );
    } catch (error) {
      if (!signal.aborted)
        fill(
          content,
          failed(error, () => void read()),
        );
    }
  }

  // Every moment that is shown as "left" carries it, so one clock keeps all of them right.
  repeatedly(signal, TICK, () => {
    for (const element of content.querySelectorAll("[data-until]")) {
      const over = left(/** @type {HTMLElement} */ (element).dataset.until ?? "");
      say(element, over === "over" ? "over: the next call gets a new one" : over);
    }
  });
  void read();
  const again = h("button", { type: "button", class: "quiet", on: { click: () => void read() } }, "Look again");
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h("h1", {}, "Token lab"),
      h(
        "p",
        { class: "lead" },
        "Three models work for you right now. This is what each of them holds, read from the live system.",
      ),
      h("div", { class: "choices" }, again),
    ),
    content,
  );
}

/** @param {any} said */
function cookieCard({ cookie, session }) {
  return model(
    "cookie",
    "Session cookie",
    "What your browser holds",
    [
      ["Name", h("code", {}, cookie.name)],
      ["Value", h("span", {}, "256 random bits. They mean nothing, and no script on this page can read them.")],
      ["Attributes", tags(cookie.attributes)],
      ["Stored", `${session.where}, under the ${session.key}: whoever reads the store cannot make the cookie`],
      ["Session", h("code", {}, session.session_id)],
      ["Idle end in", ticking(session.idle_expires_at)],
      ["Last end in", ticking(session.expires_at)],
    ],
    "Taken back by deleting one key. The price: every request asks the store, so it stays between browser and session service.",
  );
}

/**
 * @param {any} said
 * @param {HTMLElement} opened where the claims of one token are shown
 */
function tokensCard({ access_tokens: tokens }, opened) {
  const rows = tokens.map((/** @type {any} */ token) => {
    const show = () => {
      for (const one of list.querySelectorAll("button")) one.setAttribute("aria-expanded", String(one === button));
      const { expires_at: end } = token;
      fill(
        opened,
        h(
          "section",
          { class: "card decoded", "aria-label": `Access token for ${token.audience}` },
          h("h2", {}, "What ", h("code", {}, token.audience), " sees"),
          h(
            "p",
            { class: "small" },
            "Decoded on the server. The token itself and its signature never come to a browser. Time left: ",
            ticking(end),
          ),
          h(
            "div",
            { class: "decoded-parts" },
            titled("Header", explainedClaims("header", token.header)),
            titled("Claims", explainedClaims("claims", token.claims)),
          ),
        ),
      );
    };
    const button = h(
      "button",
      { type: "button", class: "quiet", "aria-expanded": "false", on: { click: show } },
      "Decode",
    );
    return h(
      "li",
      {},
      h(
        "div",
        {},
        h("code", {}, token.audience),
        h(
          "p",
          { class: "small" },
          token.cached ? "cached in the session, " : "made just now, ",
          ticking(token.expires_at),
          " left",
        ),
      ),
      button,
    );
  });
  const list = h("ul", { class: "tokens" }, ...rows);
  const none = h("p", {}, "None yet: they are fetched when a service is called first. Open the shop, then look again.");
  const card = model(
    "token",
    "JWT access tokens",
    "What services see",
    [
      ["Format", "signed with RS256, one per service (RFC 9068)"],
      ["Where", "in the session, on the server; never in the browser"],
      ["Checked", "by each service itself: signature, times, audience, scope, denylist"],
    ],
    "Taken back by an entry in every service's denylist, pushed as a signed message. Nothing is asked per request.",
    rows.length ? list : none,
  );
  list.querySelector("button")?.click();
  return card;
}

/** @param {any} said */
function refreshCard({ refresh_token: token }) {
  return model(
    "key",
    "OAuth 2.0 grant",
    "Where the refresh token lives",
    [
      ["Where", token.where],
      ["Sealed with", h("span", {}, `${token.sealed}, key `, h("code", {}, token.key_id), ", bound to this session")],
      [
        "Last rotated",
        token.rotated_at
          ? h("time", { datetime: token.rotated_at, title: inFull(token.rotated_at) }, ago(token.rotated_at))
          : "not yet",
      ],
      ["At identity", "stored as a hash; each use gives a new one, and a second use of an old one ends the grant"],
      ["Came by", "authorization code with PKCE; the session service is a confidential client"],
    ],
    "Taken back by withdrawing the grant: no refresh from then on, and the tokens that came from it are refused.",
  );
}

/**
 * @param {string} picture
 * @param {string} title
 * @param {string} what
 * @param {[string, import("../dom.js").Child][]} facts
 * @param {string} end
 * @param {import("../dom.js").Child} [more]
 */
function model(picture, title, what, facts, end, more) {
  const list = facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)));
  return h(
    "section",
    { class: "card model", "aria-label": title },
    h("p", { class: "model-number" }, icon(picture)),
    h("h2", {}, title),
    h("p", { class: "small" }, what),
    h("dl", { class: "facts stacked" }, ...list),
    more,
    h("p", { class: "model-end small" }, end),
  );
}

/** @param {string} moment */
function ticking(moment) {
  return h("span", { class: "figure", data: { until: moment } }, left(moment));
}

/** @param {string[]} names */
function tags(names) {
  return h("span", { class: "tag-row" }, ...names.map((name) => h("span", { class: "tag" }, name)));
}

/**
 * @param {string} title
 * @param {HTMLElement} content
 */
function titled(title, content) {
  return h("div", {}, h("h3", {}, title), content);
}
