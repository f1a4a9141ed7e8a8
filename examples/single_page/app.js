// The whole client: it knows no token, and could not show one to anybody.

const state = document.getElementById("state");
const actions = document.getElementById("actions");
const list = document.getElementById("orders");

const SAYS = {
  NOT_SIGNED_IN: "Connect your account to see your orders here.",
  ACCESS_WITHDRAWN: "Your access was withdrawn at Rescind. You can connect again.",
};

function button(text, press) {
  const made = document.createElement("button");
  made.textContent = text;
  made.addEventListener("click", press);
  return made;
}

async function show() {
  const response = await fetch("/api/orders", { cache: "no-store" });
  const said = await response.json();
  list.replaceChildren();
  if (response.status === 401) {
    state.textContent = SAYS[said.reason];
    actions.replaceChildren(button("Connect with Rescind", () => location.assign("/login")));
    return;
  }
  if (!response.ok) {
    state.textContent = said.detail ?? "Orders cannot be had right now.";
    actions.replaceChildren(button("Try again", show));
    return;
  }
  const pieces = said.orders.flatMap((order) => order.items).reduce((sum, item) => sum + item.quantity, 0);
  state.textContent = `${said.orders.length} orders, ${pieces} pieces.`;
  actions.replaceChildren(
    button("Look again", show),
    button("Disconnect here", async () => {
      await fetch("/logout", { method: "POST" });
      await show();
    }),
  );
  for (const order of said.orders) {
    const line = document.createElement("li");
    line.textContent = `${order.status}: ${order.items.map((item) => `${item.quantity} × ${item.sku}`).join(", ")}`;
    list.append(line);
  }
}

await show();
