/*
 * What the page says when its scripts do not come: a connection that breaks takes one of the modules with it, and then
 * none of them runs; one that hangs keeps them all waiting. A classic script in the head, since a module would be missing
 * with them.
 */
{
  const PATIENCE = 10_000; // milliseconds; what comes later still takes the notice's place

  /** @param {string} what happened */
  const say = (what) => {
    const notice = document.createElement("div");
    notice.className = "notice bad";
    notice.setAttribute("role", "alert");
    const text = document.createElement("p");
    text.textContent = what;
    const again = document.createElement("button");
    again.type = "button";
    again.className = "quiet";
    again.textContent = "Try again";
    again.addEventListener("click", () => location.reload());
    notice.append(text, again);
    document.getElementById("main")?.replaceChildren(notice);
  };
  const broke = () => say("This page did not come whole: the connection broke.");

  addEventListener(
    "error",
    (event) => {
      if (!(event.target instanceof HTMLScriptElement)) return;
      if (document.readyState === "loading") addEventListener("DOMContentLoaded", broke);
      else broke();
    },
    true, // it does not bubble
  );
  setTimeout(() => {
    if (document.querySelector("#main > .loading")) say("This page is slow to come. The connection may have broken.");
  }, PATIENCE);
}
