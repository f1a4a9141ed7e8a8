/** Receipts: who has applied a revocation, and after how many milliseconds, as they come in. */

import { each, h, s, say } from "../dom.js";
import { milliseconds } from "../format.js";
import { serviceOf } from "./verifiers.js";

const ASK = 60; // milliseconds between two looks
const PATIENCE = 15_000; // milliseconds; a frozen process may never answer

/**
 * @typedef {{verifier: string, audience: string, instance: string, delay_ms?: number | null}} Receipt
 * @typedef {{position: number, applied: Receipt[], outstanding: {id?: string, verifier?: string, audience: string,
 *   instance: string}[]}} Receipts
 */

/**
 * Asks for the receipts of `position` until everyone has applied it, telling each answer.
 * @param {import("../api.js").Api} api
 * @param {number} position
 * @param {AbortSignal} signal
 * @param {(receipts: Receipts) => void} tell
 */
export async function collect(api, position, signal, tell) {
  const end = performance.now() + PATIENCE;
  while (!signal.aborted && performance.now() < end) {
    const receipts = await api.get(`/api/control/receipts/${position}`, signal);
    tell(receipts);
    if (receipts.applied.length > 0 && receipts.outstanding.length === 0) return;
    await new Promise((go) => setTimeout(go, ASK));
  }
}

/** The plot: a line for each verifier, a dot where its receipt is. */
export function receiptPlot() {
  const summary = h(
    "p",
    { class: "plot-summary", role: "status" },
    "Revoke something, and each verifier's receipt appears here.",
  );
  const lanes = h("ul", { class: "lanes" });
  const axis = s("svg", { class: "lane-axis", "aria-hidden": "true" });
  const card = h(
    "section",
    { class: "card", "aria-labelledby": "receipts" },
    h("h2", { id: "receipts" }, "Receipts"),
    summary,
    lanes,
    h("div", { class: "lane" }, h("span", {}), axis, h("span", {})),
  );
  card.classList.add("idle");

  /** @param {Receipts} receipts */
  function show({ position, applied, outstanding }) {
    card.classList.remove("idle");
    const all = applied.length + outstanding.length;
    const delays = applied.flatMap(({ delay_ms: delay }) => (typeof delay === "number" ? [delay] : []));
    const slowest = Math.max(0, ...delays);
    const missing = outstanding.map(({ audience }) => serviceOf(audience)).join(", ");
    const so = `Revocation ${position}: applied by ${applied.length} of ${all} verifiers`;
    say(
      summary,
      `${so}${delays.length ? `, the slowest after ${milliseconds(slowest)}` : ""}${missing ? `; waiting for ${missing}` : ""}.`,
    );
    const most = niceTop(slowest);
    drawAxis(axis, most);
    const waiting = outstanding.map((one) => ({
      ...one,
      verifier: one.verifier ?? one.id ?? one.instance,
      delay_ms: null,
      waits: true,
    }));
    each(
      lanes,
      [...applied.map((one) => ({ ...one, waits: false })), ...waiting].sort((one, other) =>
        `${one.audience}${one.instance}`.localeCompare(`${other.audience}${other.instance}`),
      ),
      {
        key: ({ verifier }) => `${position} ${verifier}`,
        make: ({ audience, instance }) =>
          h(
            "li",
            { class: "lane" },
            h(
              "span",
              { class: "lane-name", title: instance },
              h("strong", {}, serviceOf(audience)),
              h("span", { class: "small" }, instance),
            ),
            s(
              "svg",
              { class: "lane-line", "aria-hidden": "true" },
              s("line", { x1: "0", x2: "100%", y1: "50%", y2: "50%" }),
              s("circle", { cy: "50%", r: 6 }),
            ),
            h("span", { class: "lane-figure figure" }),
          ),
        update: (lane, { delay_ms: delay, waits }) => {
          lane.classList.toggle("waits", waits);
          const known = typeof delay === "number";
          lane.querySelector("circle")?.setAttribute("cx", known ? percent(delay, most) : "0%");
          const figure = lane.querySelector(".lane-figure");
          if (figure) say(figure, waits ? "waiting" : known ? milliseconds(delay) : "caught up later");
        },
      },
    );
  }
  return { card, show };
}

/**
 * The end of an axis that `value` fits on: 1, 2, 5, 10, 20, 50 … ms.
 * @param {number} value
 */
export function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return power * ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10);
}

/**
 * @param {number} delay
 * @param {number} most
 */
function percent(delay, most) {
  return `${(2 + 96 * (Math.max(0, delay) / most)).toFixed(2)}%`;
}

/**
 * @param {SVGElement} axis
 * @param {number} most milliseconds
 */
function drawAxis(axis, most) {
  if (axis.dataset.most === String(most)) return;
  axis.dataset.most = String(most);
  const steps = [0, 0.5, 1];
  axis.replaceChildren(
    ...steps.map((step) =>
      s(
        "text",
        { x: percent(step * most, most), y: 14, "text-anchor": step === 0 ? "start" : step === 1 ? "end" : "middle" },
        `${Number((step * most).toPrecision(3))}${step === 1 ? " ms" : ""}`,
      ),
    ),
  );
}
