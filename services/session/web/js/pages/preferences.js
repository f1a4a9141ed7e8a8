/** Preferences: which e-mails one wants. A choice is kept as soon as it is made. */

import { fill, h } from "../dom.js";
import { inFull, left } from "../format.js";
import { failed, loading } from "../parts/messages.js";

const CHOICES = [
  {
    name: "order_emails",
    title: "E-mail about orders",
    text: "When one is placed, confirmed, shipped, delivered or cancelled.",
  },
  {
    name: "security_emails",
    title: "E-mail about sign-ins",
    text: "When somebody signs in as you, or sessions end. A changed password and a reused refresh token are mailed always.",
  },
];

/** @type {import("../app.js").Page} */
export const preferences = { path: "/preferences", title: "Preferences", open };

/** @param {import("../app.js").View} view */
function open({ root, app: { api, me, toasts }, signal }) {
  const form = h("form", { class: "card switches", "aria-label": "E-mails" });

  /** @param {Record<string, boolean>} kept */
  function show(kept) {
    const choices = CHOICES.map(({ name, title, text }) => {
      const box = h("input", { type: "checkbox", role: "switch", id: name, name, "aria-describedby": `${name}-text` });
      box.checked = kept[name] === true;
      box.addEventListener("change", () => void keep(box));
      return h(
        "div",
        { class: "switch" },
        h("div", {}, h("label", { for: name }, title), h("p", { class: "small", id: `${name}-text` }, text)),
        box,
      );
    });
    fill(form, ...choices);
  }

  /** @param {HTMLInputElement} box the one that was just changed */
  async function keep(box) {
    const wanted = Object.fromEntries(
      CHOICES.map(({ name }) => [name, /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).checked]),
    );
    try {
      await api.put("/api/notification-preferences", wanted);
      toasts.show("Kept", {
        text: box.checked ? "You get these e-mails." : "You do not get these e-mails any more.",
        tone: "good",
      });
    } catch (error) {
      box.checked = !box.checked; // as it is kept
      toasts.failure(error);
    }
  }

  async function read() {
    fill(form, loading("what you chose"));
    try {
      show(await api.get("/api/notification-preferences", signal));
    } catch (error) {
      if (!signal.aborted)
        fill(
          form,
          failed(error, () => void read()),
        );
    }
  }

  fill(
    root,
    h("header", { class: "page-head" }, h("h1", {}, "Preferences")),
    h(
      "div",
      { class: "narrow" },
      form,
      h(
        "section",
        { class: "card", "aria-labelledby": "session" },
        h("h2", { id: "session" }, "This session"),
        h(
          "dl",
          { class: "facts stacked wide-terms" },
          ...[
            ["Name", me.name],
            ["E-mail", me.email],
            ["Signed in", inFull(me.authenticated_at)],
            ["Ends at the latest in", left(me.expires_at)],
            ["Ends if idle in", left(me.idle_expires_at)],
          ].map(([term = "", value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value || "–"))),
        ),
      ),
    ),
  );
  void read();
}
