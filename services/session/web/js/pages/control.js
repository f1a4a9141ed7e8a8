/** The control room: who verifies, taking back, the receipts as they come, and breaking things while a thief tries. */

import { fill, h, renew } from "../dom.js";
import { reauthenticated } from "../parts/dialogs.js";
import { faultsCard } from "../parts/faults.js";
import { latencyHistogram } from "../parts/histogram.js";
import { failed, notice } from "../parts/messages.js";
import { repeatedly } from "../parts/polling.js";
import { collect, receiptPlot } from "../parts/receipts.js";
import { ownTargets, revokeForm } from "../parts/revoke.js";
import { stolenToken } from "../parts/stolen.js";
import { verifierTable } from "../parts/verifiers.js";

const LOOK = 1000; // milliseconds

/** @type {import("../app.js").Page} */
export const control = { path: "/control", title: "Control room", icon: "control", tab: "Control", admin: true, open };

/** @param {import("../app.js").View} view */
function open({ root, app: { api, toasts }, signal }) {
  const state = h("div", { role: "status" });
  const table = verifierTable();
  const plot = receiptPlot();
  const histogram = latencyHistogram();
  const stolen = stolenToken(api, signal, (error) => void agreed(error, "use a stolen token"));
  const faults = faultsCard(inject);
  const revoke = revokeForm(own, takeBack);

  /** What the lab shows; an empty one where it cannot be had, since any target can be typed. */
  async function own() {
    try {
      return ownTargets(await api.get("/api/lab", signal));
    } catch {
      return ownTargets({ access_tokens: [] });
    }
  }

  /**
   * Offers the way through identity where that is what is missing; otherwise says what went wrong.
   * @param {unknown} error
   * @param {string} meant
   */
  async function agreed(error, meant) {
    try {
      await reauthenticated(meant, () => Promise.reject(error));
    } catch (other) {
      if (!signal.aborted && /** @type {any} */ (other).status !== 401) toasts.failure(other);
    }
  }

  async function look() {
    try {
      table.show(await api.get("/api/control/status", signal));
      renew(state);
    } catch (error) {
      if (signal.aborted) return;
      table.lost();
      const again = () => void agreed(error, "open the control room");
      const mine = /** @type {any} */ (error).reason === "REAUTHENTICATION_REQUIRED";
      renew(
        state,
        mine
          ? failed(error, again)
          : notice(
              "warn",
              "Identity does not say how it stands",
              `${/** @type {Error} */ (error).message} Asked again every second.`,
            ),
      );
    }
  }

  /** @param {import("../parts/revoke.js").Order} order */
  async function takeBack(order) {
    stolen.mark(`revoke ${order.kind}`);
    let answer;
    try {
      answer = await reauthenticated("take something back", () => api.post("/api/control/revoke", order));
    } catch (error) {
      if (/** @type {any} */ (error).status !== 401) toasts.failure(error);
      return;
    }
    if (!answer) return;
    if (!answer.position) {
      const text =
        order.kind === "key"
          ? "Keys take no position: the next heartbeat no longer lists it."
          : "Nothing alive matched it.";
      toasts.show(order.kind === "key" ? "The key is revoked" : "There was nothing to take back", { text });
      return;
    }
    try {
      /** @type {import("../parts/receipts.js").Receipts | undefined} */
      let last;
      await collect(api, answer.position, signal, (receipts) => plot.show((last = receipts)));
      histogram.take(
        (last?.applied ?? []).flatMap(({ delay_ms: delay }) => (typeof delay === "number" ? [delay] : [])),
      );
    } catch (error) {
      if (!signal.aborted && /** @type {any} */ (error).status !== 401) toasts.failure(error);
    }
  }

  /**
   * @param {string} part
   * @param {string} fault
   * @param {string} label
   */
  async function inject(part, fault, label) {
    try {
      const done = await reauthenticated("break things", async () => {
        stolen.mark(label);
        await api.post("/api/control/faults", { part, fault });
        return true;
      });
      if (done) toasts.show(`Done: ${label}`, { tone: "good" });
    } catch (error) {
      toasts.failure(error);
    }
  }

  async function readFaults() {
    try {
      faults.show(await api.get("/api/control/faults", signal));
    } catch (error) {
      faults.card.hidden = true; // the table above says what is wrong
      if (!signal.aborted) console.warn("faults cannot be read:", /** @type {any} */ (error).reason);
    }
  }

  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h("h1", {}, "Control room"),
      h(
        "p",
        { class: "lead" },
        "Take something back, and watch every process of every service say so, in milliseconds.",
      ),
    ),
    state,
    table.card,
    h(
      "div",
      { class: "control" },
      h(
        "div",
        { class: "stack" },
        h(
          "section",
          { class: "card", "aria-labelledby": "take-back" },
          h("h2", { id: "take-back" }, "Take back"),
          revoke.form,
        ),
        faults.card,
      ),
      h("div", { class: "stack" }, plot.card, histogram.card, stolen.card),
    ),
  );
  repeatedly(signal, LOOK, look);
  void readFaults();
}
