/** Questions before what cannot be undone, and the way through identity where a person has to show who they are. */

import { h } from "../dom.js";

/**
 * Asks, in a dialog that holds the focus and closes with Escape.
 * @param {{title: string, text: string, yes: string, no?: string, danger?: boolean}} question
 * @returns {Promise<boolean>}
 */
export function confirmed({ title, text, yes, no = "Cancel", danger = false }) {
  return new Promise((answer) => {
    const decide = (/** @type {string} */ value) => dialog.close(value);
    const dialog = h(
      "dialog",
      { class: "dialog", "aria-labelledby": "question", "aria-describedby": "explanation" },
      h("h2", { id: "question" }, title),
      h("p", { id: "explanation" }, text),
      h(
        "div",
        { class: "choices" },
        h("button", { type: "button", class: "quiet", on: { click: () => decide("no") } }, no),
        h("button", { type: "button", class: danger ? "danger" : "primary", on: { click: () => decide("yes") } }, yes),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      answer(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const RETURN = "rescind.return";

/**
 * Goes on to identity to sign in, and remembers the page to come back to.
 * @param {string} [path] where identity is asked: /auth/login, or /auth/reauthenticate
 * @param {string} [meant] what the person was about to do
 */
export function goSignIn(path = "/auth/login", meant = "") {
  try {
    sessionStorage.setItem(RETURN, JSON.stringify({ page: location.hash, meant }));
  } catch {
    // Storage is switched off: the person comes back to the first page.
  }
  location.assign(`${path}?return_to=%2F`);
}

/**
 * The page that was left to sign in, once.
 * @returns {{page: string, meant: string} | null}
 */
export function cameBack() {
  try {
    const kept = sessionStorage.getItem(RETURN);
    sessionStorage.removeItem(RETURN);
    return kept ? JSON.parse(kept) : null;
  } catch {
    return null;
  }
}

/**
 * Does something for which a person must have shown lately who they are (ASVS 7.5.1), and takes them to identity if
 * that was too long ago. What `action` gives; undefined if they go to identity, or would not.
 * @template T
 * @param {string} meant "sign out everywhere"
 * @param {() => Promise<T>} action
 * @returns {Promise<T | undefined>}
 */
export async function reauthenticated(meant, action) {
  try {
    return await action();
  } catch (error) {
    if (/** @type {any} */ (error).reason !== "REAUTHENTICATION_REQUIRED") throw error;
  }
  const agreed = await confirmed({
    title: "Is it you?",
    text: `You signed in a while ago. To ${meant}, enter your password once more; you come back to this page.`,
    yes: "Enter the password",
  });
  if (agreed) goSignIn("/auth/reauthenticate", meant);
  return undefined;
}
