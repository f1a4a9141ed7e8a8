/** Every process that verifies tokens: how fresh it is, how far, and when it last said so. */

import { each, fill, h, say } from "../dom.js";
import { ago, count, short } from "../format.js";

/**
 * @typedef {{id: string, audience: string, instance: string, position: number, freshness: string,
 *   reported_at: string}} Verifier
 * @typedef {{log: string, head: number, floor: number, kids: string[], verifiers: Verifier[]}} Status
 */

/** @type {Record<string, [string, string]>} */
const FRESHNESS = {
  FRESH: ["good", "it holds every revocation up to a moment ago"],
  SYNCING: ["warn", "it has not caught up since it started"],
  STALE: ["bad", "it has heard nothing for a while, and each route does what it declared for that"],
};

/** "orders" of "urn:rescind:orders". @param {string} audience */
export const serviceOf = (audience) => audience.replace(/^urn:rescind:/, "");

/** The card, and how it is brought up to date. */
export function verifierTable() {
  const log = h("dl", { class: "facts row" });
  const rows = h("tbody", {});
  const card = h(
    "section",
    { class: "card", "aria-labelledby": "verifiers" },
    h("h2", { id: "verifiers" }, "Verifiers"),
    log,
    h(
      "div",
      { class: "scrolling", tabindex: 0, role: "region", "aria-label": "Processes that verify" },
      h(
        "table",
        { class: "lines" },
        h("thead", {}, headings("Service", "Process", "Freshness", "Position", "Behind", "Last word")),
        rows,
      ),
    ),
  );

  /** @param {Status} status */
  function show({ log: name, head, floor, kids, verifiers }) {
    facts(log, [
      ["Log", h("code", { title: name }, short(name, 16))],
      ["Head", String(head)],
      ["Floor", String(floor)],
      [
        "Accepted keys",
        kids.length ? h("code", { title: kids.join("\n") }, kids.map((kid) => short(kid, 10)).join(", ")) : "none",
      ],
      ["Processes", String(verifiers.length)],
    ]);
    each(
      rows,
      [...verifiers].sort((one, other) =>
        `${one.audience}${one.instance}`.localeCompare(`${other.audience}${other.instance}`),
      ),
      {
        key: ({ id }) => id,
        make: () => h("tr", {}, h("th", { scope: "row" }), ...Array.from({ length: 5 }, () => h("td", {}))),
        update: (row, verifier) => update(row, verifier, head),
      },
    );
  }

  /** Identity does not say how they are: what it said last is no longer shown as if it were so. */
  function lost() {
    for (const row of rows.rows) {
      const [, , fresh, , , word] = /** @type {HTMLElement[]} */ ([...row.cells]);
      if (!fresh || !word) continue;
      const title = "identity, which collects what verifiers say, does not answer";
      if (fresh.textContent !== "UNKNOWN") fill(fresh, h("span", { class: "tag warn", title }, "UNKNOWN"));
      if (row.dataset.at) say(word, ago(Number(row.dataset.at)));
    }
  }
  return { card, show, lost };
}

/**
 * @param {HTMLTableRowElement} row
 * @param {Verifier} verifier
 * @param {number} head
 */
function update(row, { id, audience, instance, position, freshness, reported_at: at }, head) {
  const [service, process, fresh, place, behind, word] = /** @type {HTMLElement[]} */ ([...row.cells]);
  if (!service || !process || !fresh || !place || !behind || !word) return;
  const name = freshness.replace(/^FRESHNESS_/, "");
  const [tone, meaning] = FRESHNESS[name] ?? ["warn", "it said something that this page does not know"];
  say(service, serviceOf(audience));
  say(process, instance);
  process.title = id;
  if (fresh.textContent !== name) fill(fresh, h("span", { class: `tag ${tone}`, title: meaning }, name));
  say(place, String(position));
  say(behind, head > position ? count(head - position, "position") : "0");
  behind.classList.toggle("late", head > position);
  say(word, ago(at));
  row.dataset.at = String(Number(new Date(at)));
}

/**
 * @param {HTMLElement} list
 * @param {[string, import("../dom.js").Child][]} entries
 */
function facts(list, entries) {
  const now = JSON.stringify(entries.map(([, value]) => (value instanceof Node ? value.textContent : value)));
  if (list.dataset.shown === now) return;
  list.dataset.shown = now;
  fill(list, ...entries.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** @param {...string} names */
function headings(...names) {
  return h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
}
