/** The back office: everybody's orders, and moving them on. Whoever placed one is told at once. */

import { fill, h, renew } from "../dom.js";
import { reauthenticated } from "../parts/dialogs.js";
import { empty, failed, loading } from "../parts/messages.js";
import { showOrders, statusOf } from "../parts/orders.js";
import { repeatedly } from "../parts/polling.js";

const AFRESH = 4000; // milliseconds

/** @type {import("../app.js").Page} */
export const backOffice = { path: "/orders", title: "Orders", icon: "orders", admin: true, open };

/** @param {import("../app.js").View} view */
function open({ root, app: { api, toasts }, signal }) {
  const list = h("ul", { class: "orders wide" });
  const state = h("div", {}, loading("all orders"));

  /**
   * @param {string} verb confirm, ship, deliver
   * @param {string} label
   * @param {string} from
   * @returns {import("../parts/orders.js").Action}
   */
  function move(verb, label, from) {
    return {
      label,
      kind: "primary",
      when: (order) => statusOf(order) === from,
      act: async (order) => {
        try {
          const headers = { "If-Match": order.etag };
          await reauthenticated("move orders on", () =>
            api.post(
              `/api/admin/orders/${order.id}/${verb}`,
              verb === "ship" ? { tracking_number: "" } : undefined,
              headers,
            ),
          );
        } catch (error) {
          toasts.failure(error);
        }
        await read();
      },
    };
  }

  const moves = [
    move("confirm", "Confirm", "placed"),
    move("ship", "Ship", "confirmed"),
    move("deliver", "Deliver", "shipped"),
  ];

  const load = async () => {
    const { orders } = await api.get("/api/admin/orders?page_size=50", signal);
    showOrders(list, orders, moves, { owners: true });
    renew(
      state,
      orders.length === 0 && empty("Nobody has ordered yet", "Orders that people place appear here by themselves."),
    );
  };

  async function read() {
    try {
      await load();
    } catch (error) {
      if (!signal.aborted)
        renew(
          state,
          failed(error, () => void reauthenticated("see all orders", load)),
        );
    }
  }

  repeatedly(signal, AFRESH, read);
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h("h1", {}, "Orders"),
      h(
        "p",
        { class: "lead" },
        "Everybody's orders. Move one on, and the person who placed it is told while they watch.",
      ),
    ),
    state,
    list,
  );
}
