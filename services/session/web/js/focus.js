/**
 * The keyboard's place on the page. What is pressed is often gone a moment later: an order that is cancelled has no
 * "Cancel" any more, a device that is signed out has no card. A browser drops the focus then, and whoever uses a
 * keyboard or a screen reader begins again at the top of the page. Here it goes to what took that place instead.
 */

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex='0']";
const HEADING = ":is(h1, h2, h3)";
const KEPT = 8; // places; a dialog and a message are two on the way back to the button behind them

/**
 * Where something with the focus stood: the elements around it from the inside out, with its place in each.
 * @typedef {{element: HTMLElement, label: string, visible: boolean, around: {parent: Element, place: number}[]}} Place
 */

/** From now on focus that is lost, because what had it was removed, hidden or disabled, goes to the nearest sensible place. */
export function keepFocus() {
  /** @type {Place[]} the latest first */
  let places = [];
  let held = false;
  let moved = false;

  function note() {
    const element = focused();
    if (!element) return;
    places = [placeOf(element), ...places.filter((one) => one.element !== element)].slice(0, KEPT);
    held = true;
  }

  function look() {
    const now = focused();
    if (now && there(now)) note();
    else if (held) restore();
  }

  function restore() {
    const [last] = places;
    const found = places.map(successor).find(Boolean) ?? document.querySelector("main");
    if (!found) return;
    if (!found.matches(FOCUSABLE) && !found.hasAttribute("tabindex")) found.tabIndex = -1;
    // Whoever uses a pointer has the page where they want it.
    found.focus({ preventScroll: !last?.visible });
    moved = true;
  }

  document.addEventListener("focusin", note);
  // Who presses beside everything wants the focus nowhere.
  document.addEventListener("mousedown", () => setTimeout(() => (held = focused() !== null)), true);
  // A key that is held down pressed one thing, and not what comes in its place too.
  document.addEventListener(
    "keydown",
    (event) => {
      if (!event.repeat) moved = false;
      else if (moved) event.preventDefault();
    },
    true,
  );
  const attributeFilter = ["hidden", "disabled"];
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributeFilter });
}

/** What has the focus; null where that is nothing in particular. */
function focused() {
  const element = document.activeElement;
  return element instanceof HTMLElement && element !== document.body ? element : null;
}

/** @param {Element} element */
function there(element) {
  return element.isConnected && element.checkVisibility() && !element.matches(":disabled");
}

/**
 * @param {HTMLElement} element
 * @returns {Place}
 */
function placeOf(element) {
  const around = [];
  /** @type {Element} */
  let child = element;
  for (let parent = child.parentElement; parent && parent !== document.body; parent = child.parentElement) {
    around.push({ parent, place: [...parent.children].indexOf(child) });
    child = parent;
  }
  return { element, label: labelOf(element), visible: element.matches(":focus-visible"), around };
}

/**
 * What a button does, without what it does it to: "Take back" for "Take back: Partner Analytics".
 * @param {HTMLElement} element
 */
function labelOf(element) {
  return element.textContent?.trim() || (element.getAttribute("aria-label") ?? "").replace(/:.*/s, "");
}

/**
 * What has the focus in the place of what had it: that again, if it is still there; otherwise the next one like it, or
 * the heading above. Null in a panel that was closed: there it goes back to where one came from.
 * @param {Place} place
 * @returns {HTMLElement | null}
 */
function successor({ element, label, around }) {
  if (there(element)) return element;
  if (around.some(({ parent }) => parent.matches("[popover]") && !there(parent))) return null;
  for (const { parent, place } of around) {
    if (!there(parent)) continue;
    const found = headingOf(parent) ?? near(parent, place, label);
    if (found) return found;
  }
  return null;
}

/**
 * @param {Element} parent
 * @returns {HTMLElement | null}
 */
function headingOf(parent) {
  /** @type {HTMLElement | null} */
  const heading = parent.querySelector(`:scope > ${HEADING}, :scope > header > ${HEADING}`);
  return heading && there(heading) ? heading : null;
}

/**
 * In `parent`, what does the same as what stood at `place`: after it, otherwise before it. In a list, anything else is
 * better than leaving it.
 * @param {Element} parent
 * @param {number} place
 * @param {string} label
 * @returns {HTMLElement | null}
 */
function near(parent, place, label) {
  const children = [...parent.children];
  const candidates = [...children.slice(place), ...children.slice(0, place).reverse()]
    .flatMap((child) => /** @type {HTMLElement[]} */ ([child, ...child.querySelectorAll(FOCUSABLE)]))
    .filter((one) => one.matches(FOCUSABLE) && there(one));
  const same = candidates.find((one) => labelOf(one) === label);
  return same ?? (parent.closest("ul, ol, table") ? (candidates[0] ?? null) : null);
}
