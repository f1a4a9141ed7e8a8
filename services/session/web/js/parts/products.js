/** The shelf: what can be ordered, with stock and price. */

import { each, h, icon, s, say } from "../dom.js";
import { count, money } from "../format.js";

const MANY = 1000; // pieces; how many more there are is nobody's business
const FEW = 5; // pieces left; below that it is worth saying

/** @typedef {import("./basket.js").Product} Product */

/**
 * Shows the products, and keeps what stays.
 * @param {HTMLElement} shelf
 * @param {readonly Product[]} products
 * @param {import("./basket.js").Basket} basket
 */
export function showProducts(shelf, products, basket) {
  const bySku = new Map(products.map((product) => [product.sku, product]));
  each(shelf, products, {
    key: ({ sku }) => sku,
    make: ({ sku }) => {
      const add = () => {
        const now = shelfOf(shelf).get(sku);
        if (now) basket.change(now, 1);
      };
      return card(sku, add);
    },
    update: (element, product) => update(element, product, basket.lines.get(product.sku)?.quantity ?? 0),
  });
  shelves.set(shelf, bySku);
}

/** @type {WeakMap<HTMLElement, Map<string, Product>>} */
const shelves = new WeakMap();

/** @param {HTMLElement} shelf */
function shelfOf(shelf) {
  return shelves.get(shelf) ?? new Map();
}

/**
 * @param {string} sku
 * @param {() => void} add
 */
function card(sku, add) {
  return h(
    "li",
    { class: "product" },
    pattern(sku),
    h("span", { class: "tag product-held" }),
    h("p", { class: "product-name" }),
    h("p", { class: "product-stock small" }),
    h("p", { class: "product-price figure" }),
    h("button", { type: "button", class: "quiet", on: { click: add } }, icon("plus"), h("span", {}, "Add")),
  );
}

/**
 * @param {HTMLElement} element
 * @param {Product} product
 * @param {number} taken
 */
function update(element, product, taken) {
  const [name, stock, price] = element.querySelectorAll("p");
  const button = element.querySelector("button");
  if (!name || !stock || !price || !button) return;
  say(name, product.name);
  say(price, money(product.price));
  say(stock, stockWords(product.stock));
  stock.classList.toggle("few", product.stock <= FEW);
  // It stays where the focus may be: whoever took the last piece goes on from here.
  button.setAttribute("aria-disabled", String(product.stock <= taken));
  button.setAttribute("aria-label", `Add to the basket: ${product.name}`);
  const held = element.querySelector(".tag");
  if (held) say(held, taken ? `${taken} in the basket` : "");
}

/**
 * A picture for what has none: drawn from the name's own letters, the same each time.
 * @param {string} sku
 */
function pattern(sku) {
  let seed = [...sku].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7);
  const draw = (/** @type {number} */ below) => {
    seed = (seed * 1664525 + 1013904223) >>> 0; // Knuth's linear congruence: looks are all that hangs on it
    return Math.floor((seed / 2 ** 32) * below);
  };
  const shapes = Array.from({ length: 3 }, () => {
    const [x, y, r] = [20 + draw(120), 15 + draw(60), 16 + draw(26)];
    const tone = `tone-${draw(4)}`;
    return draw(2)
      ? s("circle", { class: tone, cx: x, cy: y, r })
      : s("rect", {
          class: tone,
          x: x - r,
          y: y - r,
          width: 2 * r,
          height: 2 * r,
          rx: r / 2,
          transform: `rotate(${draw(90)} ${x} ${y})`,
        });
  });
  return s(
    "svg",
    {
      class: `pattern tint-${draw(5)}`,
      viewBox: "0 0 160 90",
      preserveAspectRatio: "xMidYMid slice",
      "aria-hidden": "true",
    },
    ...shapes,
  );
}

/**
 * How many there are, as far as it helps.
 * @param {number} stock
 */
function stockWords(stock) {
  if (stock <= 0) return "Sold out";
  if (stock <= FEW) return `Only ${stock} left`;
  return stock >= MANY ? "In stock" : `${count(stock, "piece")} in stock`;
}
