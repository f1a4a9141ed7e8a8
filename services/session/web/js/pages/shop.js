/** The shop: the shelf, the basket, and one's orders as they change. */

import { fill, h } from "../dom.js";
import { short } from "../format.js";
import { Basket, basketCard } from "../parts/basket.js";
import { confirmed } from "../parts/dialogs.js";
import { empty, failed, loading } from "../parts/messages.js";
import { showOrders, statusOf } from "../parts/orders.js";
import { repeatedly, until } from "../parts/polling.js";
import { showProducts } from "../parts/products.js";

const AFRESH = 60_000; // milliseconds; in between, notifications say when something changed
const PAGE = 10;

/** @type {import("../app.js").Page} */
export const shop = { path: "/shop", title: "Shop", icon: "shop", open };

/** @param {import("../app.js").View} view */
function open({ root, app, signal }) {
  const { api, toasts, live } = app;
  const basket = new Basket();
  const shelf = h("ul", { class: "shelf" });
  const shelfState = h("div", {}, loading("the shelf"));
  const list = h("ul", { class: "orders" });
  const ordersState = h("div", {}, loading("your orders"));
  const older = h(
    "button",
    { type: "button", class: "quiet", hidden: true, on: { click: () => void more() } },
    "Show older orders",
  );
  /** @type {import("../parts/basket.js").Product[]} */
  let products = [];
  /** @type {import("../parts/orders.js").Order[]} */
  let orders = [];
  let next = "";

  const cancel = {
    label: "Cancel order",
    when: (/** @type {any} */ order) => ["placed", "confirmed"].includes(statusOf(order)),
    act: async (/** @type {any} */ order) => {
      const question = {
        title: "Cancel this order?",
        text: `${short(order.id)}: what it reserved goes back on the shelf.`,
      };
      if (!(await confirmed({ ...question, yes: "Cancel the order", no: "Keep it", danger: true }))) return;
      try {
        // Only what was on the screen is cancelled: an order that has changed since is shown again first (RFC 9110).
        taken(await api.post(`/api/orders/${order.id}/cancel`, undefined, { "If-Match": order.etag }));
        await readProducts();
      } catch (error) {
        toasts.failure(error);
        await readOrders();
      }
    },
  };

  async function readProducts() {
    try {
      products = (await api.get("/api/products?page_size=100", signal)).products;
      showProducts(shelf, products, basket);
      fill(
        shelfState,
        products.length === 0 && empty("The shelf is empty", "Seed a catalogue: python -m orders seed."),
      );
    } catch (error) {
      if (!signal.aborted)
        fill(
          shelfState,
          failed(error, () => void readProducts()),
        );
    }
  }

  async function readOrders() {
    try {
      const page = await api.get(`/api/orders?page_size=${PAGE}`, signal);
      const shown = new Set(page.orders.map((/** @type {any} */ { id }) => id));
      const beyond = orders.slice(PAGE).filter(({ id }) => !shown.has(id));
      if (beyond.length === 0) next = page.next_page_token;
      orders = [...page.orders, ...beyond];
      show();
    } catch (error) {
      if (!signal.aborted)
        fill(
          ordersState,
          failed(error, () => void readOrders()),
        );
    }
  }

  const readAll = () => Promise.all([readProducts(), readOrders()]);

  async function more() {
    try {
      const page = await api.get(`/api/orders?page_size=${PAGE}&page_token=${encodeURIComponent(next)}`, signal);
      next = page.next_page_token;
      const known = new Set(orders.map(({ id }) => id));
      orders = [...orders, ...page.orders.filter((/** @type {any} */ { id }) => !known.has(id))];
      show();
    } catch (error) {
      if (!signal.aborted) toasts.failure(error);
    }
  }

  /** @param {import("../parts/orders.js").Order} order */
  function taken(order) {
    orders = [order, ...orders.filter(({ id }) => id !== order.id)];
    orders.sort((one, other) => other.created_at.localeCompare(one.created_at));
    show();
  }

  function show() {
    showOrders(list, orders, [cancel]);
    older.hidden = !next;
    fill(ordersState, orders.length === 0 && empty("No orders yet", "Put something into the basket and place it."));
  }

  async function place() {
    try {
      taken(await basket.place(api));
    } catch {
      // The basket says what is wrong.
    }
    void readProducts(); // the next order need not wait for it
  }

  basket.addEventListener("changed", () => showProducts(shelf, products, basket));
  until(signal, live, "notification", ({ detail }) => {
    if (detail.category.toUpperCase().endsWith("ORDERS")) void readOrders();
  });
  until(signal, live, "resumed", () => void readAll());
  repeatedly(signal, AFRESH, readAll);

  fill(
    root,
    h("header", { class: "page-head" }, h("h1", {}, "Shop")),
    h(
      "div",
      { class: "shop" },
      h("section", { class: "shop-shelf", "aria-label": "Products" }, shelfState, shelf),
      basketCard(basket, place),
      h(
        "section",
        { class: "shop-orders", "aria-labelledby": "orders" },
        h("h2", { id: "orders" }, "My orders"),
        ordersState,
        list,
        older,
      ),
    ),
  );
}
