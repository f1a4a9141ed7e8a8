/** The three models in one picture, drawn wide for a desk and tall for a hand. */

import { h, s } from "../dom.js";

/** @typedef {{x: number, y: number, w: number, h: number, name: string, what: string, strong?: boolean}} Box */
/** @typedef {{path: string, label: [number, number, string, string?], kind: string, anchor?: string}} Arrow */

const SAYS =
  "Your browser holds a session cookie and shows it to the session service. Session gets tokens from identity with " +
  "OAuth 2.0, and shows JWT access tokens to orders and notifications, which check them without asking anyone. " +
  "Identity pushes signed revocations to all of them.";

/** @type {{size: [number, number], boxes: Box[], arrows: Arrow[]}} */
const WIDE = {
  size: [960, 330],
  boxes: [
    { x: 5, y: 40, w: 200, h: 76, name: "Your browser", what: "holds nothing but a cookie" },
    { x: 380, y: 40, w: 190, h: 76, name: "session", what: "keeps the tokens" },
    { x: 770, y: 40, w: 180, h: 76, name: "orders", what: "checks tokens itself" },
    { x: 770, y: 216, w: 180, h: 76, name: "notifications", what: "checks tokens itself" },
    { x: 380, y: 216, w: 190, h: 76, name: "identity", what: "issues and takes back", strong: true },
  ],
  arrows: [
    { path: "M205 78 H372", label: [288, 62, "1 · session cookie", "opaque, httpOnly"], kind: "cookie" },
    { path: "M475 116 V208", label: [462, 158, "3 · OAuth 2.0", "code + PKCE, refresh"], kind: "oauth", anchor: "end" },
    { path: "M570 66 H762", label: [666, 50, "2 · JWT access token", "one per service, 15 min"], kind: "jwt" },
    { path: "M570 92 H700 Q716 92 716 108 V226 Q716 242 732 242 H762", label: [0, 0, ""], kind: "jwt" },
    { path: "M570 276 H762", label: [666, 296, "signed revocations", "pushed in milliseconds"], kind: "back" },
    { path: "M500 216 V124", label: [512, 158, "signed", "revocations"], kind: "back", anchor: "start" },
    { path: "M742 276 V120 Q742 104 758 104 H762", label: [0, 0, ""], kind: "back" },
  ],
};

/** @type {{size: [number, number], boxes: Box[], arrows: Arrow[]}} */
const TALL = {
  size: [340, 620],
  boxes: [
    { x: 70, y: 6, w: 200, h: 70, name: "Your browser", what: "holds nothing but a cookie" },
    { x: 70, y: 160, w: 200, h: 70, name: "session", what: "keeps the tokens" },
    { x: 70, y: 318, w: 200, h: 70, name: "identity", what: "issues and takes back", strong: true },
    { x: 4, y: 530, w: 158, h: 70, name: "orders", what: "checks by itself" },
    { x: 178, y: 530, w: 158, h: 70, name: "notifications", what: "checks by itself" },
  ],
  arrows: [
    {
      path: "M170 76 V152",
      label: [182, 112, "1 · session cookie", "opaque, httpOnly"],
      kind: "cookie",
      anchor: "start",
    },
    { path: "M150 230 V310", label: [140, 268, "3 · OAuth 2.0", "code + PKCE"], kind: "oauth", anchor: "end" },
    { path: "M190 318 V238", label: [200, 268, "signed", "revocations"], kind: "back", anchor: "start" },
    { path: "M70 195 H26 V522", label: [36, 412, "2 · JWT access", "tokens"], kind: "jwt", anchor: "start" },
    { path: "M26 470 H240 V522", label: [0, 0, ""], kind: "jwt" },
    { path: "M270 353 H306 V522", label: [298, 412, "signed", "revocations"], kind: "back", anchor: "end" },
    { path: "M306 500 H100 V522", label: [0, 0, ""], kind: "back" },
  ],
};

/** The figure; which drawing is shown is the style sheet's to say. */
export function picture() {
  return h("figure", { class: "picture" }, drawing(WIDE, "wide"), drawing(TALL, "tall"), h("figcaption", {}, SAYS));
}

/**
 * @param {typeof WIDE} what
 * @param {string} name
 */
function drawing({ size: [width, height], boxes, arrows }, name) {
  const head = (/** @type {string} */ kind) =>
    s(
      "marker",
      { id: `${name}-${kind}`, viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
      s("path", { d: "M0 .5 L7.5 4 L0 7.5 Z", class: `head ${kind}` }),
    );
  return s(
    "svg",
    { class: `drawing ${name}`, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    s("defs", {}, ...["cookie", "jwt", "oauth", "back"].map(head)),
    ...arrows.map(({ path, kind }) =>
      s("path", { d: path, class: `arrow ${kind}`, "marker-end": `url(#${name}-${kind})` }),
    ),
    ...boxes.map(box),
    ...arrows.filter(({ label }) => label[2]).map(label),
  );
}

/** @param {Box} box */
function box({ x, y, w, h: height, name, what, strong }) {
  const middle = x + w / 2;
  return s(
    "g",
    { class: strong ? "box strong" : "box" },
    s("rect", { x, y, width: w, height, rx: 12 }),
    s("text", { x: middle, y: y + height / 2 - 4, class: "name" }, name),
    s("text", { x: middle, y: y + height / 2 + 17, class: "what" }, what),
  );
}

/** @param {Arrow} arrow */
function label({ label: [x, y, first, second], kind, anchor = "middle" }) {
  const lines = [s("tspan", { x, class: "first" }, first)];
  if (second)
    lines.push(s("tspan", { x, dy: anchor === "middle" && kind !== "back" ? 34 : 16, class: "second" }, second));
  return s("text", { x, y, class: `label ${kind}`, "text-anchor": anchor }, ...lines);
}
