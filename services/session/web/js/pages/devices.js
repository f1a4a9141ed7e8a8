/** Devices: where one is signed in, which apps hang on it, and taking any of it back. */

import { each, fill, h, renew } from "../dom.js";
import { deviceCard, looseApps } from "../parts/device.js";
import { confirmed, reauthenticated } from "../parts/dialogs.js";
import { empty, failed, loading } from "../parts/messages.js";
import { busy, repeatedly, until } from "../parts/polling.js";

const AFRESH = 5000; // milliseconds: another device that signs in appears by itself

/** @type {import("../app.js").Page} */
export const devices = { path: "/devices", title: "Devices", icon: "devices", open };

/** @param {import("../app.js").View} view */
function open({ root, app: { api, toasts, live }, signal }) {
  const browsers = h("ul", { class: "devices" });
  const others = h("ul", { class: "devices" });
  const apps = h("ul", { class: "apps card" });
  const state = h("div", {}, loading("your devices"));
  const otherPart = part(
    "Other sign-ins",
    "Signed in at identity, without a session here: apps on a phone or at a desk.",
    others,
  );
  const appPart = part(
    "Apps with offline access",
    "They keep their access when you sign out, until you take it back.",
    apps,
  );

  /** @param {typeof renew | typeof fill} put how what is wrong is shown: who asks again hears the answer again */
  async function read(put = renew) {
    try {
      const said = await api.get("/api/sessions", signal);
      each(browsers, said.sessions, {
        key: ({ id }) => id,
        make: (session) => deviceCard(session, { end: () => end(session), withdraw }),
        update: (element, session) => element.dispatchEvent(new CustomEvent("shown", { detail: session })),
      });
      each(others, said.other_logins, {
        key: ({ sid }) => sid,
        make: (login) =>
          deviceCard({ ...login, current: false }, { end: () => end({ ...login, current: false }), withdraw }),
        update: (element, login) => element.dispatchEvent(new CustomEvent("shown", { detail: login })),
      });
      looseApps(apps, said.offline_apps, withdraw);
      otherPart.hidden = said.other_logins.length === 0;
      appPart.hidden = said.offline_apps.length === 0;
      const alone = said.sessions.length === 1 && said.other_logins.length === 0;
      renew(
        state,
        alone && empty("Only this device", "Sign in from another browser, and it appears here within seconds."),
      );
      endOthers.disabled = alone;
    } catch (error) {
      if (!signal.aborted)
        put(
          state,
          failed(error, () => void read(fill)),
        );
    }
  }

  /**
   * @param {string} meant
   * @param {string} done what is said then; empty where the whole page says so
   * @param {() => Promise<unknown>} work
   */
  async function tried(meant, done, work) {
    try {
      const answer = await reauthenticated(meant, async () => {
        await work();
        return true;
      });
      if (answer && done) toasts.show(done, { tone: "good" });
    } catch (error) {
      // An end of this very session is no failure: the page says so by itself.
      if (/** @type {any} */ (error).status !== 401) toasts.failure(error);
    }
    if (!signal.aborted) await read();
  }

  /** @param {import("../parts/device.js").Device} session */
  async function end(session) {
    const text = session.current
      ? "That is this very browser: you will be signed out here."
      : "It is signed out at once, wherever it is; you stay signed in here.";
    const question = { title: `Sign out ${session.device || "this device"}?`, text, yes: "Sign it out", danger: true };
    if (!(await confirmed(question))) return;
    await tried("sign a device out", "It is signed out", () =>
      api.delete(`/api/sessions/${encodeURIComponent(session.id ?? session.sid)}`),
    );
  }

  /** @param {import("../parts/device.js").AppAccess} access */
  async function withdraw(access) {
    const question = {
      title: `Take back the access of ${access.client_name}?`,
      text: "Its tokens are refused from now on. It has to ask you again before it can do anything for you.",
      yes: "Take it back",
      danger: true,
    };
    if (!(await confirmed(question))) return;
    await tried("take access back", "Its access is taken back", () =>
      api.delete(`/api/apps/${encodeURIComponent(access.gid)}`),
    );
  }

  async function theOthers() {
    const question = {
      title: "Sign out all the others?",
      text: "Every other browser and app ends. This one stays.",
      yes: "Sign the others out",
      danger: true,
    };
    if (await confirmed(question))
      await tried("sign out your other devices", "The others are signed out", () =>
        api.post("/api/sessions/end-others"),
      );
  }

  async function everywhere() {
    const question = {
      title: "Sign out everywhere?",
      text: "Every browser and every app ends within a second, this one included. Apps with offline access end too.",
      yes: "Sign out everywhere",
      danger: true,
    };
    if (await confirmed(question))
      await tried("sign out everywhere", "", () => api.post("/api/sessions/end-all"));
  }

  const endOthers = h(
    "button",
    { type: "button", class: "quiet", on: { click: () => void busy(endOthers, theOthers) } },
    "Sign out the others",
  );
  const endAll = h(
    "button",
    { type: "button", class: "danger", on: { click: () => void busy(endAll, everywhere) } },
    "Sign out everywhere",
  );

  until(signal, live, "notification", ({ detail }) => {
    if (detail.category.toUpperCase().endsWith("SECURITY")) void read();
  });
  repeatedly(signal, AFRESH, () => read());
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h("h1", {}, "Devices"),
      h(
        "p",
        { class: "lead" },
        "Where you are signed in, and what may act for you. What you end here ends everywhere, within a second.",
      ),
      h("div", { class: "choices" }, endOthers, endAll),
    ),
    h(
      "section",
      { "aria-labelledby": "browsers" },
      h("h2", { id: "browsers", class: "unseen" }, "Browsers"),
      browsers,
      state,
    ),
    otherPart,
    appPart,
  );
}

/**
 * @param {string} title
 * @param {string} text
 * @param {HTMLElement} list
 */
function part(title, text, list) {
  return h(
    "section",
    { class: "part", "aria-label": title, hidden: true },
    h("h2", {}, title),
    h("p", { class: "small" }, text),
    list,
  );
}
