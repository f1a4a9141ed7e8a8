/** The app: who is here, which page is open, and what happens when the session ends, wherever it was ended. */

import { Api } from "./api.js";
import { fill } from "./dom.js";
import { keepFocus } from "./focus.js";
import { Live } from "./live.js";
import { NEVER_SIGNED_IN, whyNotSignedIn } from "./reasons.js";
import { backOffice } from "./pages/backoffice.js";
import { control } from "./pages/control.js";
import { devices } from "./pages/devices.js";
import { lab } from "./pages/lab.js";
import { landing } from "./pages/landing.js";
import { preferences } from "./pages/preferences.js";
import { shop } from "./pages/shop.js";
import { cameBack, confirmed, goSignIn } from "./parts/dialogs.js";
import { markOpen, openFrame, personFrame } from "./parts/frame.js";
import { Inbox } from "./parts/inbox.js";
import { failed, Toasts } from "./parts/messages.js";

/**
 * @typedef {{subject: string, name: string, email: string, session_id: string, sid: string, admin: boolean,
 *   scopes: string[], authenticated_at: string, created_at: string, expires_at: string, idle_expires_at: string}} Me
 * @typedef {{api: Api, me: Me, live: Live, inbox: Inbox, toasts: Toasts, signOut: () => Promise<void>}} App
 * @typedef {{root: HTMLElement, app: App, signal: AbortSignal}} View what a page gets: where it stands, what it may use,
 *   and when it is left
 * @typedef {{path: string, title: string, icon?: string, admin?: boolean, tab?: string, open: (view: View) => void}} Page a page
 *   without an icon is not among the tabs, `tab` is its short name there, and `admin` pages are for administrators
 */

/** @type {readonly Page[]} */
const PAGES = [shop, devices, lab, backOffice, control, preferences];

const root = /** @type {HTMLElement} */ (document.getElementById("main"));
const toasts = new Toasts(/** @type {HTMLElement} */ (document.getElementById("toasts")));
const api = new Api(refused);
const PATIENCE = 400; // milliseconds; the live stream knows better why a session ended, and says so about now
const LATELY = 120_000; // milliseconds; who went to identity and came back without a password has signed in before that

/** @type {App | null} */
let app = null;
let leave = new AbortController();
let over = false;
/** Why a sign-in has just failed, as the address says it. */
let failure = new URLSearchParams(location.search).get("sign_in") ?? "";
const back = cameBack();
let leaving = false; // the answer to signing out says more than the end of the live stream, which may come before it

async function start() {
  let me;
  try {
    me = await api.get("/api/me");
  } catch (error) {
    if (/** @type {any} */ (error).status !== 401)
      fill(
        root,
        failed(error, () => void start()),
      );
    return;
  }
  const live = new Live(() => api.get("/api/me"));
  const inbox = new Inbox(api);
  app = { api, me, live, inbox, toasts, signOut };
  const allowed = PAGES.filter((page) => !page.admin || me.admin);
  personFrame(app, allowed);
  live.addEventListener("notification", (event) => {
    const notification = /** @type {CustomEvent} */ (event).detail;
    if (inbox.arrived(notification)) toasts.show(notification.title, { text: notification.body });
  });
  live.addEventListener("resumed", () => void inbox.load());
  live.addEventListener("ended", (event) => ended(/** @type {CustomEvent} */ (event).detail));
  live.start();
  void inbox.load();
  greet(me);
  const turn = () => open(allowed);
  addEventListener("hashchange", turn);
  open(allowed, true);
}

/**
 * Says to a person with a session how it went at identity, where they came from.
 * @param {Me} me
 */
function greet({ authenticated_at: at }) {
  const meant = back?.meant ?? "";
  if (failure) {
    const again = () => goSignIn(meant ? "/auth/reauthenticate" : "/auth/login", meant);
    toasts.show("You did not sign in anew", { text: whyNotSignedIn(failure).text, tone: "bad", again });
  } else if (meant && Date.now() - Date.parse(at) < LATELY) {
    toasts.show("Thank you", { text: `You can ${meant} now.`, tone: "good" });
  }
  failure = "";
}

/**
 * Opens the page that the address names.
 * @param {readonly Page[]} allowed
 * @param {boolean} [first]
 */
function open(allowed, first = false) {
  if (!app || over) return;
  const wanted = location.hash.replace(/^#/, "") || "/";
  const page = allowed.find(({ path }) => path === wanted) ?? allowed[0];
  if (!page) return;
  leave.abort();
  leave = new AbortController();
  fill(root);
  document.title = `${page.title} · Rescind`;
  markOpen(page.path);
  scrollTo(0, 0);
  page.open({ root, app, signal: leave.signal });
  // Whoever cannot see the page is told which one it is.
  if (!first) root.focus({ preventScroll: true });
}

/**
 * A call found no session.
 * @param {import("./api.js").Problem} problem
 */
function refused({ reason, fields }) {
  const cause = fields.cause ?? reason;
  if (!app) ended(NEVER_SIGNED_IN.has(cause) ? "" : cause);
  else if (app.live.state === "open") setTimeout(() => ended(cause), PATIENCE);
  else ended(cause);
}

/**
 * The session is over: nothing of the person stays on the screen.
 * @param {string} reason why; empty when nobody was signed in
 * @param {string} detail the server's own words for it, where they say more than the reason does
 */
function ended(reason, detail = "") {
  if (over || leaving) return;
  over = true;
  leave.abort();
  app?.live.stop();
  toasts.end();
  app = null;
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  openFrame(() => goSignIn());
  document.title = "Rescind";
  landing(root, { ended: reason, detail, failed: failure }, () => goSignIn());
  if (reason) root.focus({ preventScroll: true });
}

async function signOut() {
  const yes = await confirmed({ title: "Sign out here?", text: "Your other devices stay signed in.", yes: "Sign out" });
  if (!yes) return;
  leaving = true;
  /** @type {unknown} */
  let refusal;
  try {
    await api.post("/auth/logout");
  } catch (error) {
    refusal = error;
  }
  leaving = false;
  const { reason, detail, status } = /** @type {Partial<import("./api.js").Problem>} */ (refusal ?? {});
  if (!refusal || status === 401) ended("SIGNED_OUT");
  else if (reason === "SIGNED_OUT_HERE_ONLY") ended(reason, detail);
  else toasts.failure(refusal);
}

// The address of the skip link would take the place of the page's own: a reload would open nothing.
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  root.focus();
});
// The page that was left to sign in, whether that came about or not; and a reload tells nothing twice.
history.replaceState(null, "", location.pathname + (back?.page || location.hash));
keepFocus();
void start();
