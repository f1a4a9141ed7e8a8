/** Things that happen again and again while a page is open, and stop with it. */

/**
 * Calls `work` now and then again, `pause` milliseconds after it has ended, until the signal; not while nobody looks.
 * @param {AbortSignal} signal
 * @param {number} pause milliseconds
 * @param {() => Promise<unknown> | void} work deals with its own failures
 */
export function repeatedly(signal, pause, work) {
  /** @type {number | undefined} */
  let timer;
  const round = async () => {
    if (!document.hidden) await work();
    if (!signal.aborted) timer = setTimeout(round, pause);
  };
  signal.addEventListener("abort", () => clearTimeout(timer));
  void round();
}

/**
 * Listens until the signal.
 * @param {EventTarget} target
 * @param {string} event
 * @param {(event: any) => void} listener
 * @param {AbortSignal} signal
 */
export function until(signal, target, event, listener) {
  target.addEventListener(event, listener, { signal });
}

/**
 * Runs `work` while `button` says so and cannot be pressed again.
 * @param {HTMLButtonElement} button
 * @param {() => Promise<unknown>} work
 */
export async function busy(button, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-busy");
  }
}
