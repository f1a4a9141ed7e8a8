/** A stolen token, used again and again: a strip of what each wire answered, while one revokes and breaks things. */

import { each, fill, h, s, say } from "../dom.js";
import { milliseconds } from "../format.js";
import { busy } from "./polling.js";

const PAUSE = 250; // milliseconds between two uses
const WINDOW = 45_000; // milliseconds that the strip shows
const LIFE = 15 * 60_000; // milliseconds that the server keeps what was stolen

/**
 * @typedef {{accepted: boolean, http: {status: number, reason?: string | null}, grpc: {code: string, reason?: string | null},
 *   ms: number}} Answer
 * @typedef {{at: number, http: boolean, grpc: boolean}} Sample
 */

/**
 * The card; `mark` draws a line for something that was done.
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {(error: unknown) => void} failed
 */
export function stolenToken(api, signal, failed) {
  /** @type {Sample[]} */
  let samples = [];
  /** @type {{at: number, label: string}[]} */
  let marks = [];
  let id = "";
  const lead = h(
    "p",
    { class: "small" },
    "A copy of your own token for orders is kept on the server and used four times a second over both wires. Take it back, or break something, and watch.",
  );
  const button = h(
    "button",
    { type: "button", class: "primary", on: { click: () => void busy(button, id ? drop : steal) } },
    "Steal my token and use it",
  );
  const strip = s("svg", { class: "strip", role: "img", "aria-label": "Nothing used yet" });
  const said = h("p", { class: "plot-summary", role: "status" });
  const latest = h("p", { class: "small figure" });
  const key = h(
    "p",
    { class: "strip-key small" },
    h("span", { class: "accepted" }, "accepted"),
    h("span", { class: "refused" }, "refused"),
  );
  const card = h(
    "section",
    { class: "card stolen", "aria-labelledby": "stolen" },
    h("h2", { id: "stolen" }, "A stolen token"),
    lead,
    button,
    strip,
    key,
    said,
    latest,
  );
  card.classList.add("idle");

  async function steal() {
    try {
      id = (await api.post("/api/control/stolen")).id;
    } catch (error) {
      failed(error);
      return;
    }
    samples = [];
    marks = [{ at: Date.now(), label: "stolen" }];
    card.classList.remove("idle");
    fill(button, "Drop it");
    void use(id, Date.now() + LIFE);
  }

  async function drop() {
    id = "";
    fill(button, "Steal my token and use it");
  }

  /**
   * @param {string} mine
   * @param {number} end
   */
  async function use(mine, end) {
    while (id === mine && !signal.aborted && Date.now() < end) {
      const at = Date.now();
      try {
        took(at, await api.post(`/api/control/stolen/${encodeURIComponent(mine)}/use`));
      } catch (error) {
        if (/** @type {any} */ (error).status === 404) break;
        say(latest, /** @type {Error} */ (error).message);
      }
      await new Promise((go) => setTimeout(go, Math.max(0, at + PAUSE - Date.now())));
    }
    if (id === mine) await drop();
  }

  /**
   * @param {number} at
   * @param {Answer} answer
   */
  function took(at, { http, grpc, ms }) {
    const before = samples.at(-1);
    const sample = { at, http: http.status < 300, grpc: grpc.code === "OK" };
    samples = [...samples.filter((one) => one.at > at - WINDOW), sample];
    marks = marks.filter((one) => one.at > at - WINDOW);
    const all = sample.http && sample.grpc;
    if (!before || (before.http && before.grpc) !== all) {
      const since = marks.at(-1);
      const after =
        since && since.label !== "stolen"
          ? `, first seen ${milliseconds(at + ms - since.at)} after “${since.label}”`
          : "";
      say(said, all ? `Accepted${after}.` : `Refused${after}. ${http.reason || grpc.reason || "No reason given"}.`);
      strip.setAttribute("aria-label", all ? "The stolen token is accepted" : "The stolen token is refused");
    }
    const wire = (
      /** @type {string} */ name,
      /** @type {string | number} */ code,
      /** @type {string | null | undefined} */ reason,
    ) => `${name} ${code}${reason ? ` ${reason}` : ""}`;
    say(
      latest,
      `${wire("HTTP", http.status, http.reason)} · ${wire("gRPC", grpc.code, grpc.reason)} · ${milliseconds(ms)}`,
    );
    draw(strip, at, samples, marks);
  }

  return {
    card,
    /** @param {string} label */
    mark(label) {
      if (id) marks.push({ at: Date.now(), label });
    },
  };
}

/**
 * @param {SVGElement} strip
 * @param {number} now
 * @param {readonly Sample[]} samples
 * @param {readonly {at: number, label: string}[]} marks
 */
function draw(strip, now, samples, marks) {
  // It grows from the left until it is full, and moves on from then.
  const from = Math.max(samples[0]?.at ?? now, now - WINDOW);
  const x = (/** @type {number} */ at) => (100 * (at - from)) / WINDOW;
  const width = (100 * PAUSE * 0.72) / WINDOW;
  // Refused is lower as well as of another colour: one need not see colours to see it.
  const bars = samples.flatMap((one) =>
    /** @type {const} */ (["http", "grpc"]).map((wire) => ({
      key: `${one.at} ${wire}`,
      class: one[wire] ? "accepted" : "refused",
      x: x(one.at),
      y: (wire === "http" ? 34 : 70) + (one[wire] ? 0 : 16),
      height: one[wire] ? 28 : 12,
    })),
  );
  const group = (/** @type {string} */ name) => {
    const there = strip.querySelector(`g.${name}`);
    if (there) return there;
    const made = s("g", { class: name });
    strip.append(made);
    return made;
  };
  if (!strip.firstChild)
    strip.append(
      s("text", { x: -44, y: 52, class: "wire" }, "HTTP"),
      s("text", { x: -44, y: 88, class: "wire" }, "gRPC"),
    );
  each(group("bars"), bars, {
    key: (bar) => bar.key,
    make: (bar) => s("rect", { class: bar.class, y: bar.y, height: bar.height, width: `${width}%`, rx: 1 }),
    update: (element, bar) => element.setAttribute("x", `${bar.x.toFixed(2)}%`),
  });
  // Two lines of labels in turn: what is done in quick succession can still be read.
  each(
    group("marks"),
    marks.map((mark, place) => ({ ...mark, low: place % 2 === 1 })),
    {
      key: (mark) => `${mark.at} ${mark.label} ${mark.low}`,
      make: (mark) =>
        s("g", {}, s("line", { y1: mark.low ? 29 : 16, y2: 104 }), s("text", { y: mark.low ? 26 : 13 }, mark.label)),
      update: (element, mark) => {
        const place = x(mark.at);
        const [line, text] = element.children;
        line?.setAttribute("x1", `${place}%`);
        line?.setAttribute("x2", `${place}%`);
        text?.setAttribute("x", `${place}%`);
        text?.setAttribute("text-anchor", place > 85 ? "end" : place < 15 ? "start" : "middle");
      },
    },
  );
}
