// The button between light and dark. `theme.js` put the kept choice in place before the page was painted.

export function wireTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    button.textContent = isDark() ? "☀" : "☾";
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    if ((next === "dark") === system.matches) delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (root.dataset.theme) localStorage.setItem("tiller.theme", next);
      else localStorage.removeItem("tiller.theme");
    } catch {
      // storage is blocked: the choice lasts as long as the page
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}
