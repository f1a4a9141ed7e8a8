/** Breaking things: buttons where this process may, otherwise the commands to type. */

import { each, fill, h } from "../dom.js";
import { busy } from "./polling.js";

/** @type {Record<string, string>} */
const LABELS = { kill: "Stop", start: "Start", freeze: "Freeze", thaw: "Thaw", empty: "Empty" };
/** @type {Record<string, string>} */
const MEANINGS = {
  redis: "Stopped, it comes back empty. Verifiers ask identity instead, and stay fresh.",
  identity: "No sign-in, no refresh; what was issued goes on being checked.",
  orders: "Its callers get 503 until it is back.",
  notifications: "Orders go on; what happened is told when it is back.",
  session: "This very page: its cookies live on in Redis.",
};

/** @typedef {{part: string, fault: string, command: string}} Command */

/**
 * The card; `show` takes what the server says is possible.
 * @param {(part: string, fault: string, label: string) => Promise<void>} inject
 */
export function faultsCard(inject) {
  const lead = h("p", { class: "small" });
  const list = h("ul", { class: "faults" });
  const card = h(
    "section",
    { class: "card", "aria-labelledby": "faults" },
    h("h2", { id: "faults" }, "Break things"),
    lead,
    list,
  );

  /** @param {{available: boolean, commands: Command[]}} said */
  function show({ available, commands }) {
    fill(
      lead,
      available
        ? "Real processes of this system are stopped and frozen. Steal a token first, and watch what it can do meanwhile."
        : "This system runs elsewhere: type these commands beside it. Steal a token first, and watch what it can do meanwhile.",
    );
    const parts = [...new Set(commands.map(({ part }) => part))];
    each(list, parts, {
      key: (part) => part,
      make: (part) =>
        h(
          "li",
          {},
          h("div", {}, h("strong", {}, part), MEANINGS[part] && h("p", { class: "small" }, MEANINGS[part])),
          available ? buttons(part, commands) : lines(part, commands),
        ),
    });
  }

  /**
   * @param {string} part
   * @param {Command[]} commands
   */
  function buttons(part, commands) {
    const made = commands
      .filter((command) => command.part === part)
      .map(({ fault, command }) => {
        const label = LABELS[fault] ?? fault;
        const press = () => void busy(button, () => inject(part, fault, `${label.toLowerCase()} ${part}`));
        const button = h(
          "button",
          {
            type: "button",
            class: "quiet small-button",
            title: command || undefined,
            "aria-label": `${label} ${part}`,
            on: { click: press },
          },
          label,
        );
        return button;
      });
    return h("div", { class: "choices" }, ...made);
  }
  return { card, show };
}

/**
 * @param {string} part
 * @param {Command[]} commands
 */
function lines(part, commands) {
  const own = commands.filter((command) => command.part === part);
  return h(
    "ul",
    { class: "commands" },
    ...own.map(({ fault, command }) =>
      h("li", {}, h("span", { class: "small" }, LABELS[fault] ?? fault), h("code", {}, command)),
    ),
  );
}
