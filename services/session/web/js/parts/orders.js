/** Orders as cards: what, how much, and how far they are. */

import { each, fill, h, icon, say } from "../dom.js";
import { ago, inFull, money, short } from "../format.js";
import { busy } from "./polling.js";

/**
 * @typedef {{id: string, owner?: string, status: string, items: {sku: string, quantity: number, name?: string,
 *   unit_price?: import("../format.js").Money}[], created_at: string, updated_at: string, etag: string,
 *   total: import("../format.js").Money | null, tracking_number?: string}} Order
 * @typedef {{label: string, kind?: string, when: (order: Order) => boolean, act: (order: Order) => Promise<void>}} Action
 */

const STEPS = ["placed", "confirmed", "shipped", "delivered"];

/**
 * The status in small letters, whichever wire it came by.
 * @param {Order} order
 */
export function statusOf(order) {
  return order.status.toLowerCase().replace(/^order_status_/, "");
}

/**
 * Shows orders, newest first, each with the buttons whose time it is.
 * @param {HTMLElement} list
 * @param {readonly Order[]} orders
 * @param {readonly Action[]} actions
 * @param {{owners?: boolean}} [more] whether to say whose each is
 */
export function showOrders(list, orders, actions, { owners = false } = {}) {
  each(list, orders, {
    key: ({ id }) => id,
    make: () => h("li", { class: "order card" }),
    update: (element, order) => {
      const when = element.querySelector("time");
      // A card is made anew only when the order changed, so a button keeps the focus while others move.
      if (element.dataset.etag === order.etag && when) {
        say(when, ago(order.created_at));
        return;
      }
      const changed = element.dataset.etag !== undefined;
      element.dataset.etag = order.etag;
      fill(element, ...parts(order, actions, owners));
      if (changed) highlight(element);
    },
  });
}

/**
 * @param {Order} order
 * @param {readonly Action[]} actions
 * @param {boolean} owners
 */
function parts(order, actions, owners) {
  const buttons = actions
    .filter(({ when }) => when(order))
    .map(({ label, kind = "quiet", act }) => {
      const press = () => void busy(button, () => act(order));
      const button = h(
        "button",
        { type: "button", class: kind, "aria-label": `${label} ${order.id}`, on: { click: press } },
        label,
      );
      return button;
    });
  return [
    h(
      "header",
      {},
      h("code", { title: order.id }, short(order.id)),
      h("time", { class: "small", datetime: order.created_at, title: inFull(order.created_at) }, ago(order.created_at)),
      h("strong", { class: "figure" }, money(order.total)),
    ),
    owners &&
      order.owner &&
      h("p", { class: "small" }, "for ", h("code", { title: order.owner }, short(order.owner, 18))),
    h(
      "ul",
      { class: "order-items" },
      ...order.items.map((item) =>
        h("li", {}, h("span", { class: "figure" }, `${item.quantity} ×`), " ", item.name || item.sku),
      ),
    ),
    steps(order),
    order.tracking_number && h("p", { class: "small" }, "Tracking number ", h("code", {}, order.tracking_number)),
    buttons.length > 0 && h("div", { class: "choices" }, ...buttons),
  ];
}

/** @param {Order} order */
function steps(order) {
  const status = statusOf(order);
  if (status === "cancelled")
    return h("p", { class: "order-status" }, h("span", { class: "tag bad" }, icon("cross"), "cancelled"));
  const reached = STEPS.indexOf(status);
  return h(
    "ol",
    { class: "steps", "aria-label": `Status: ${status}` },
    ...STEPS.map((step, place) =>
      h(
        "li",
        { class: place <= reached ? "done" : "", "aria-current": place === reached ? "step" : undefined },
        h("span", {}, step),
      ),
    ),
  );
}

/** @param {HTMLElement} element */
function highlight(element) {
  element.classList.remove("changed");
  void element.offsetWidth; // a layout in between: the animation starts again
  element.classList.add("changed");
}
