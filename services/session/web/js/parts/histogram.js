/** How long revocations took to reach each verifier, over all of this visit. */

import { each, h, s, say } from "../dom.js";
import { count, milliseconds } from "../format.js";

const EDGES = [1, 2, 3, 5, 10, 20, 50, 100, 1000]; // milliseconds; a last column takes what is above

/** The card; `take` adds the delays of one revocation. */
export function latencyHistogram() {
  /** @type {number[]} */
  const delays = [];
  const summary = h("p", { class: "plot-summary" }, "Every receipt of this visit is counted here, in milliseconds.");
  const bars = s("svg", { class: "histogram", role: "img", "aria-label": "Latency histogram: nothing yet" });
  const card = h(
    "section",
    { class: "card", "aria-labelledby": "latency" },
    h("h2", { id: "latency" }, "Latency"),
    summary,
    bars,
  );

  function show() {
    const counts = [...EDGES, Infinity].map(
      (edge, place) => delays.filter((delay) => delay < edge && delay >= (EDGES[place - 1] ?? -Infinity)).length,
    );
    const most = Math.max(1, ...counts);
    const width = 100 / counts.length;
    each(
      bars,
      counts.map((number, place) => ({ number, place })),
      {
        key: ({ place }) => String(place),
        make: () =>
          s(
            "g",
            {},
            s("rect", { rx: 2 }),
            s("text", { class: "number", "text-anchor": "middle" }),
            s("text", { class: "edge", "text-anchor": "middle" }),
          ),
        update: (bar, { number, place }) => {
          const [rect, top, edge] = bar.children;
          if (!rect || !top || !edge) return;
          const height = (64 * number) / most;
          const middle = `${((place + 0.5) * width).toFixed(2)}%`;
          rect.setAttribute("x", `${(place * width + width * 0.14).toFixed(2)}%`);
          rect.setAttribute("width", `${(width * 0.72).toFixed(2)}%`);
          rect.setAttribute("y", `${(80 - height).toFixed(2)}%`);
          rect.setAttribute("height", `${Math.max(number ? 1.5 : 0.6, height).toFixed(2)}%`);
          top.setAttribute("x", middle);
          top.setAttribute("y", `${(77 - height).toFixed(2)}%`);
          say(top, number ? String(number) : "");
          edge.setAttribute("x", middle);
          edge.setAttribute("y", "93%");
          say(edge, range(place));
        },
      },
    );
    if (delays.length === 0) return;
    const sorted = [...delays].sort((one, other) => one - other);
    const at = (/** @type {number} */ part) =>
      milliseconds(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0);
    const said = `${count(delays.length, "receipt")}: half within ${at(0.5)}, 95 % within ${at(0.95)}, the slowest ${at(1)}`;
    say(summary, `${said}.`);
    bars.setAttribute("aria-label", `Latency histogram. ${said}`);
  }

  show();
  return {
    card,
    /** @param {readonly number[]} some milliseconds */
    take(some) {
      delays.push(...some);
      show();
    },
  };
}

/**
 * What a column holds.
 * @param {number} place
 */
function range(place) {
  const edge = EDGES[place];
  if (edge === undefined) return "> 1 s";
  return edge === 1000 ? "< 1 s" : `< ${edge}`;
}
