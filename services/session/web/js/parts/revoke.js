/** The form that takes something back: any kind, with what is the person's own as ready targets. */

import { fill, h } from "../dom.js";
import { short } from "../format.js";
import { confirmed } from "./dialogs.js";
import { busy } from "./polling.js";
import { serviceOf } from "./verifiers.js";

/** @type {[string, string, string][]} */
const KINDS = [
  ["token", "One token", "by its jti; also tokens exchanged from it"],
  ["session", "A login session", "by its sid; the session and its grants end"],
  ["grant", "A grant", "by its gid; its refresh tokens end with it"],
  ["subject", "A person", "by their sub; everything they hold"],
  ["client", "A client", "by its client_id; everything it holds, of everybody"],
  ["key", "A signing key", "by its kid; everything it signed, of everybody"],
];
const SOFT = new Set(["subject", "client"]);
const CAUSE = "CONTROL_ROOM";

/** @typedef {{kind: string, target: string, soft: boolean, cause: string}} Order */

/**
 * The person's own things, by kind, out of what the lab shows.
 * @param {any} lab
 * @returns {Map<string, {target: string, label: string}[]>}
 */
export function ownTargets(lab) {
  /** @type {Map<string, Map<string, string>>} */
  const found = new Map(KINDS.map(([kind]) => [kind, new Map()]));
  // The one for orders comes first: it is what the thief beside this form has.
  const first = (/** @type {any} */ { audience }) => (serviceOf(audience) === "orders" ? 0 : 1);
  const tokens = [...lab.access_tokens].sort((one, other) => first(one) - first(other));
  for (const { audience, header, claims } of tokens) {
    const service = serviceOf(audience);
    found.get("token")?.set(claims.jti, `my token for ${service}`);
    found.get("session")?.set(claims.sid, "my login session");
    found.get("grant")?.set(claims.gid, "my grant to this app");
    found.get("subject")?.set(claims.sub, "myself");
    found.get("client")?.set(claims.client_id, "this app");
    found.get("key")?.set(header.kid, "the key of my tokens");
  }
  const list = (/** @type {Map<string, string>} */ targets) =>
    [...targets].filter(([target]) => target).map(([target, label]) => ({ target, label }));
  return new Map([...found].map(([kind, targets]) => [kind, list(targets)]));
}

/**
 * The form. `own` is asked each time the kind changes; `revoke` does it.
 * @param {() => Promise<Map<string, {target: string, label: string}[]>>} own
 * @param {(order: Order) => Promise<void>} revoke
 */
export function revokeForm(own, revoke) {
  const kind = h(
    "select",
    { id: "kind", on: { change: changed } },
    ...KINDS.map(([value, label]) => h("option", { value }, label)),
  );
  const target = h("input", {
    id: "target",
    required: true,
    maxlength: 256,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "kind-text",
  });
  const soft = h("input", { id: "soft", type: "checkbox" });
  const softLine = h(
    "p",
    { class: "check" },
    soft,
    h("label", { for: "soft" }, "Soft: holders refresh once and go on"),
  );
  const text = h("p", { id: "kind-text", class: "small" });
  const ready = h("p", { class: "ready-targets" });
  const button = h("button", { type: "submit", class: "danger" }, "Take it back");
  const form = h(
    "form",
    {
      class: "revoke-form",
      on: { submit: (/** @type {Event} */ event) => (event.preventDefault(), void busy(button, sent)) },
    },
    h("div", { class: "field" }, h("label", { for: "kind" }, "What"), kind),
    h("div", { class: "field" }, h("label", { for: "target" }, "Which"), target, text),
    ready,
    softLine,
    button,
  );

  /** What was offered of another kind is no target of this one, not even until the new ones are here. */
  function changed() {
    target.value = "";
    void turn();
  }

  async function turn() {
    const [, , meaning = ""] = KINDS.find(([value]) => value === kind.value) ?? [];
    fill(text, meaning);
    softLine.hidden = !SOFT.has(kind.value);
    const targets = (await own()).get(kind.value) ?? [];
    const put = (/** @type {string} */ value) => {
      target.value = value;
      target.focus();
    };
    fill(
      ready,
      ...targets.map((one) =>
        h(
          "button",
          { type: "button", class: "chip", title: one.target, on: { click: () => put(one.target) } },
          one.label,
          " ",
          h("code", {}, short(one.target, 12)),
        ),
      ),
    );
    if (targets[0]) target.value = targets[0].target;
    else target.value = "";
  }

  async function sent() {
    const order = {
      kind: kind.value,
      target: target.value.trim(),
      soft: SOFT.has(kind.value) && soft.checked,
      cause: CAUSE,
    };
    const mine = (await own()).get(order.kind)?.some((one) => one.target === order.target);
    const wide = order.kind === "key" || order.kind === "client";
    if (!order.soft && ((mine && order.kind !== "token") || wide)) {
      const warning = wide
        ? "It reaches everybody, not only you. Who was signed in with it signs in again."
        : "This is your own: the session of this page ends with it, and you sign in again.";
      if (!(await confirmed({ title: "Take it back?", text: warning, yes: "Take it back", danger: true }))) return;
    }
    await revoke(order);
    await turn();
  }

  void turn();
  return { form, refresh: turn };
}
