/** The basket: what is about to be ordered. It lives as long as the page: a reload empties it. */

import { each, fill, h, icon, say } from "../dom.js";
import { count, money } from "../format.js";
import { Problem } from "../api.js";
import { busy } from "./polling.js";

const MOST = 1000; // of one thing, as the orders service has it

/** @typedef {{sku: string, name: string, price: import("../format.js").Money, stock: number}} Product */

/** Tells of `changed`. */
export class Basket extends EventTarget {
  /** @type {Map<string, {product: Product, quantity: number}>} */
  lines = new Map();
  // The same for every attempt to place what is in here now: an order is not placed twice because an answer got lost.
  #key = crypto.randomUUID();
  /** @type {Problem | null} */
  refused = null;

  get number() {
    return [...this.lines.values()].reduce((sum, { quantity }) => sum + quantity, 0);
  }

  /** @returns {import("../format.js").Money | null} */
  get total() {
    const lines = [...this.lines.values()];
    if (!lines[0]) return null;
    const sum = lines.reduce((total, { product, quantity }) => total + Number(product.price.minor_units) * quantity, 0);
    return { minor_units: sum, currency: lines[0].product.price.currency };
  }

  /**
   * @param {Product} product
   * @param {number} by
   */
  change(product, by) {
    const held = this.lines.get(product.sku)?.quantity ?? 0;
    const quantity = Math.min(held + by, product.stock, MOST);
    if (quantity === held) return;
    if (quantity > 0) this.lines.set(product.sku, { product, quantity });
    else this.lines.delete(product.sku);
    this.#changed();
  }

  /**
   * Places it; the order. What was refused is shown beside it, and what is added meanwhile stays for the next one.
   * @param {import("../api.js").Api} api
   * @returns {Promise<any>}
   */
  async place(api) {
    const placed = [...this.lines];
    const items = placed.map(([sku, { quantity }]) => ({ sku, quantity }));
    try {
      const order = await api.post("/api/orders", { items }, { "Idempotency-Key": this.#key });
      for (const [sku, { quantity }] of placed) this.#take(sku, quantity);
      this.#changed();
      return order;
    } catch (error) {
      if (error instanceof Problem) this.refused = error;
      this.dispatchEvent(new Event("changed"));
      throw error;
    }
  }

  /**
   * @param {string} sku
   * @param {number} quantity how many of it are ordered now
   */
  #take(sku, quantity) {
    const line = this.lines.get(sku);
    if (line && line.quantity > quantity) this.lines.set(sku, { ...line, quantity: line.quantity - quantity });
    else this.lines.delete(sku);
  }

  #changed() {
    this.#key = crypto.randomUUID();
    this.refused = null;
    this.dispatchEvent(new Event("changed"));
  }
}

/**
 * The basket on the page.
 * @param {Basket} basket
 * @param {() => Promise<void>} place
 */
export function basketCard(basket, place) {
  const lines = h("ul", { class: "basket-lines" });
  const sum = h("strong", { class: "figure" });
  const number = h("span", { class: "small" });
  const button = h(
    "button",
    { type: "button", class: "primary", on: { click: () => void busy(button, place) } },
    "Place order",
  );
  const refusal = h("div", { role: "alert" });
  const none = h("p", { class: "small" }, "Nothing in it yet. Add something from the shelf.");
  const pay = h("div", { class: "basket-total" }, h("span", {}, number, sum), button);
  const card = h(
    "section",
    { class: "card basket", "aria-labelledby": "basket" },
    h("h2", { id: "basket" }, "Basket"),
    none,
    lines,
    refusal,
    pay,
  );
  const show = () => {
    const there = [...basket.lines.values()];
    none.hidden = there.length > 0;
    pay.hidden = there.length === 0;
    card.classList.toggle("filled", there.length > 0);
    say(sum, money(basket.total));
    say(number, count(basket.number, "piece"));
    each(lines, there, {
      key: ({ product }) => product.sku,
      make: ({ product }) => line(basket, product.sku),
      update: (element, { product, quantity }) => {
        const [name, amount] = element.querySelectorAll("[data-shown]");
        if (name) say(name, product.name);
        if (amount) say(amount, money({ ...product.price, minor_units: Number(product.price.minor_units) * quantity }));
        const output = element.querySelector("output");
        if (output) say(output, String(quantity));
      },
    });
    if (basket.refused) fill(refusal, h("p", { class: "notice bad" }, icon("warning"), basket.refused.detail));
    else fill(refusal);
  };
  basket.addEventListener("changed", show);
  show();
  return card;
}

/**
 * @param {Basket} basket
 * @param {string} sku
 */
function line(basket, sku) {
  const step = (/** @type {number} */ by) => {
    const held = basket.lines.get(sku);
    if (held) basket.change(held.product, by);
  };
  const name = basket.lines.get(sku)?.product.name ?? sku;
  const button = (/** @type {string} */ picture, /** @type {string} */ label, /** @type {number} */ by) =>
    h(
      "button",
      { type: "button", class: "bare", "aria-label": `${label}: ${name}`, on: { click: () => step(by) } },
      icon(picture),
    );
  return h(
    "li",
    {},
    h("span", { class: "basket-name", data: { shown: "name" } }),
    h(
      "span",
      { class: "stepper" },
      button("minus", "One less", -1),
      h("output", { "aria-label": "Quantity" }),
      button("plus", "One more", 1),
    ),
    h("span", { class: "figure", data: { shown: "amount" } }),
  );
}
