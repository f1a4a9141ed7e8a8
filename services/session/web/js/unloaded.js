/*
 * What the page says when its scripts do not come: a connection that breaks takes one of the modules with it, and then
 * none of them runs. A classic script in the head, since a module would be missing with them.
 */
addEventListener(
  "error",
  (event) => {
    if (!(event.target instanceof HTMLScriptElement)) return;
    const say = () => {
      const notice = document.createElement("div");
      notice.className = "notice bad";
      notice.setAttribute("role", "alert");
      const text = document.createElement("p");
      text.textContent = "This page did not come whole: the connection broke.";
      const again = document.createElement("button");
      again.type = "button";
      again.className = "quiet";
      again.textContent = "Try again";
      again.addEventListener("click", () => location.reload());
      notice.append(text, again);
      document.getElementById("main")?.replaceChildren(notice);
    };
    if (document.readyState === "loading") addEventListener("DOMContentLoaded", say);
    else say();
  },
  true, // it does not bubble
);
