/*
 * Light or dark, before the first paint: a classic script in the head, since a module would come too late.
 * Without a choice of the person's, their system decides. The choice is the only thing this app keeps in the browser's
 * storage beside the page to return to after signing in.
 */
(() => {
  const KEY = "rescind.theme";
  const root = document.documentElement;
  const choices = ["light", "dark"];

  function chosen() {
    try {
      const kept = localStorage.getItem(KEY);
      return choices.includes(kept ?? "") ? kept : null;
    } catch {
      return null; // storage is switched off: the system decides
    }
  }

  function shown() {
    return chosen() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }

  function apply() {
    const choice = chosen();
    if (choice) root.dataset.theme = choice;
    else delete root.dataset.theme;
  }

  addEventListener("rescind:theme", () => {
    try {
      localStorage.setItem(KEY, shown() === "dark" ? "light" : "dark");
    } catch {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      return;
    }
    apply();
  });
  apply();
})();
