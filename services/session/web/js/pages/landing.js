/** What one sees who is not signed in: what this is, and, where a session has just ended, why. */

import { fill, h, icon } from "../dom.js";
import { picture } from "../parts/picture.js";
import { whyEnded, whyNotSignedIn } from "../reasons.js";

const MODELS = [
  {
    icon: "cookie",
    name: "Session cookie",
    holds: "what a browser holds",
    text: "An opaque, httpOnly cookie that scripts cannot read. The session behind it is in Redis and can be ended at once.",
  },
  {
    icon: "token",
    name: "JWT access token",
    holds: "what a service sees",
    text: "Signed with RS256 and good for one service. Every service checks it by itself, and no request asks a central store.",
  },
  {
    icon: "key",
    name: "OAuth 2.0",
    holds: "how tokens come to be",
    text: "Authorization code with PKCE, rotating refresh tokens, consent for third parties. Access is given, renewed and withdrawn.",
  },
];

/**
 * @param {HTMLElement} root
 * @param {{ended: string, detail: string, failed: string}} why a session has ended, with the server's own words for it
 *   if it sent some, or a sign-in failed; empty where nothing did
 * @param {() => void} signIn
 */
export function landing(root, { ended, detail, failed }, signIn) {
  const start = h(
    "button",
    { type: "button", class: "primary large", on: { click: signIn } },
    failed ? "Try again" : ended ? "Sign in again" : "Sign in",
  );
  const why = whyNotSignedIn(failed);
  // Whoever tries to sign in again knows already that they were signed out.
  const notice = failed
    ? told("You are not signed in", why.reason, why.text)
    : ended && told("You were signed out", ended, detail || whyEnded(ended));
  fill(
    root,
    notice,
    h(
      "section",
      { class: "hero" },
      h("h1", {}, "Stateless tokens", h("br"), "that you can take back"),
      h(
        "p",
        { class: "lead" },
        "Four services check signed tokens locally, without asking anyone. A signed stream of revocations reaches all of " +
          "them, so a token that is taken back is refused everywhere within milliseconds.",
      ),
      h("p", {}, start),
    ),
    picture(),
    h(
      "section",
      { class: "models", "aria-label": "The three models" },
      ...MODELS.map((model, place) =>
        h(
          "article",
          { class: "card" },
          h("p", { class: "model-number" }, icon(model.icon), h("span", {}, `${place + 1}`)),
          h("h2", {}, model.name),
          h("p", { class: "small" }, model.holds),
          h("p", {}, model.text),
        ),
      ),
    ),
  );
}

/**
 * @param {string} title
 * @param {string} reason
 * @param {string} text
 */
function told(title, reason, text) {
  return h(
    "div",
    { class: "notice warn ended", role: "alert" },
    icon("out"),
    h("div", {}, h("p", {}, h("strong", {}, title), ": ", h("code", {}, reason)), h("p", {}, text)),
  );
}
