/**
 * Elements, made and kept up to date. Data goes in as text, never as markup: nothing here parses HTML, so what a product,
 * a device or a notification is called cannot become code.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */
/**
 * Attributes by name; `on` holds listeners by event, `data` the data-* attributes. `true` sets an empty attribute, and
 * false, null and undefined leave it out.
 * @typedef {{[name: string]: any, on?: Record<string, (event: any) => void>, data?: Record<string, string>}} Attributes
 */

const SVG = "http://www.w3.org/2000/svg";
const SPRITE = "/static/icons.svg";
const SAFE_LINK = /^(?:\/(?!\/)|#|https:\/\/)/;

/**
 * An HTML element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function s(tag, attributes = {}, ...children) {
  return dressed(/** @type {SVGElementTagNameMap[T]} */ (document.createElementNS(SVG, tag)), attributes, children);
}

/**
 * One of the icons in icons.svg. It is decoration: what it means stands beside it, or in a label.
 * @param {string} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  return s(
    "svg",
    { class: "icon", "aria-hidden": "true", focusable: "false" },
    s("use", { href: `${SPRITE}#${name}` }),
  );
}

/**
 * Replaces what is in `parent`.
 * @template {Element} E
 * @param {E} parent
 * @param {...Child} children
 * @returns {E}
 */
export function fill(parent, ...children) {
  parent.replaceChildren(...present(children));
  return parent;
}

/**
 * Replaces what is in `parent`, unless it says the same already: what is read again and again is announced once.
 * @param {Element} parent
 * @param {Child} [child]
 */
export function renew(parent, child) {
  const wanted = h("div", {}, child);
  if (parent.textContent !== wanted.textContent) parent.replaceChildren(...wanted.childNodes);
}

/**
 * Sets the text of an element, and touches it only where it changed: screen readers hear no more than happened.
 * @param {Element} element
 * @param {string} text
 */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes `parent` hold one element for each item, in their order. Elements that stay are the same ones, so focus and
 * scroll position survive an update.
 * @template Item
 * @template {Element} E
 * @param {Element} parent
 * @param {readonly Item[]} items
 * @param {{key: (item: Item) => string, make: (item: Item) => E, update?: (element: E, item: Item) => void}} how
 */
export function each(parent, items, { key, make, update }) {
  const kept = new Map(
    [...parent.children].map((child) => [
      /** @type {HTMLElement} */ (child).dataset.key ?? "",
      /** @type {E} */ (child),
    ]),
  );
  const wanted = items.map((item) => {
    const name = key(item);
    const element = kept.get(name) ?? make(item);
    /** @type {any} */ (element).dataset.key = name;
    update?.(element, item);
    return element;
  });
  const staying = new Set(wanted);
  for (const child of [...parent.children]) if (!staying.has(/** @type {E} */ (child))) child.remove();
  wanted.forEach((element, place) => {
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes} attributes
 * @param {Child[]} children
 * @returns {E}
 */
function dressed(element, { on = {}, data = {}, ...attributes }, children) {
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  for (const [name, value] of Object.entries(data)) /** @type {any} */ (element).dataset[name] = value;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on") || name === "style") throw new TypeError(`${name} is no attribute for data`);
    if (name === "href" && !SAFE_LINK.test(value)) throw new TypeError("a link leads to a page here, or to https");
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...present(children));
  return element;
}

/**
 * @param {Child[]} children
 * @returns {(Node | string)[]}
 */
function present(children) {
  const there = /** @type {(Node | string | number)[]} */ (
    children.filter((child) => child !== null && child !== undefined && child !== false)
  );
  return there.map((child) => (typeof child === "number" ? String(child) : child));
}
