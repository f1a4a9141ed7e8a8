/** What every part of an access token says, and who reads it (RFC 9068, and what Rescind adds). */

import { h } from "../dom.js";
import { inFull } from "../format.js";

/** @type {Record<string, [string, string]>} */
const HEADER = {
  alg: ["How it is signed", "RS256 and nothing else: a token that names another algorithm is refused (RFC 8725)."],
  typ: [
    "What kind it is",
    "An access token. ID tokens and logout tokens say something else and are refused here (RFC 9068).",
  ],
  kid: [
    "Which key signed it",
    "The key's thumbprint (RFC 7638). Once a key is revoked, everything it signed is refused.",
  ],
};

/** @type {Record<string, [string, string]>} */
const CLAIMS = {
  iss: ["Who issued it", "Compared letter by letter with the issuer that the service trusts."],
  sub: ["Who it speaks for", "usr_ is a person, svc_ a service: one can never pass for the other."],
  aud: [
    "Which service it is for",
    "One service. Any other refuses it, so a token seen there is worthless elsewhere (RFC 8707).",
  ],
  client_id: ["Which app it was given to", "Revoking the client takes back all tokens of the app."],
  iat: ["When it was issued", "By the clock of identity's database."],
  exp: ["When it ends by itself", "A quarter of an hour by default. Revocation is for what cannot wait that long."],
  jti: ["Its own name", "Revoking it takes back this one token and no other."],
  scope: ["What it allows", "Space-separated. Each route asks for the scope it needs."],
  cgen: ["Generation of the client", "Raised to take back everything the client holds, without comparing clocks."],
  gid: ["The grant it comes from", "One sign-in or consent of one app: a family of refresh tokens."],
  gen: ["Generation of the person", "Raised by a password change or “sign out everywhere”: older tokens are refused."],
  auth_time: [
    "When the person signed in",
    "What was done in between does not move it. Sensitive actions ask how long ago it was.",
  ],
  sid: ["The login session", "Ties browser, apps and tokens together. Signing out takes back all that carry it."],
  act: ["Who acts for the person", "A service that calls another on the person's behalf (RFC 8693)."],
  ojti: ["The token it was exchanged from", "Revoking that one takes this one back too."],
  cnf: ["Which key must prove it", "Bound to a key: whoever copies the token cannot use it (RFC 9449)."],
  acr: ["How the person signed in", "The strength of the sign-in, for routes that ask for more."],
};

const TIMES = new Set(["iat", "exp", "auth_time"]);

/**
 * Header or claims as a list, each with its meaning.
 * @param {"header" | "claims"} which
 * @param {Record<string, unknown>} said
 */
export function explainedClaims(which, said) {
  const meanings = which === "header" ? HEADER : CLAIMS;
  return h(
    "dl",
    { class: "claims" },
    ...Object.entries(said).map(([name, value]) => {
      const [title, text] = meanings[name] ?? ["", "A claim that this page does not know."];
      return h(
        "div",
        { class: "claim" },
        h("dt", {}, h("code", {}, name), h("span", {}, title)),
        h("dd", {}, h("code", { class: "value" }, shown(name, value)), h("p", { class: "small" }, text)),
      );
    }),
  );
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function shown(name, value) {
  if (TIMES.has(name) && typeof value === "number") return `${value} · ${inFull(value * 1000)}`;
  return typeof value === "string" ? value : JSON.stringify(value);
}
