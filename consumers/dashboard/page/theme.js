// Light or dark, before anything is painted. A classic script: a module would run too late.
(() => {
  "use strict";
  const NAMES = ["auto", "light", "dark"];
  const SIGNS = { auto: "◐", light: "☀", dark: "☾" };
  const LABELS = { auto: "as the system", light: "light", dark: "dark" };
  const read = () => {
    try {
      const kept = localStorage.getItem("mirrorlog-theme");
      return NAMES.includes(kept) ? kept : "auto";
    } catch {
      return "auto";
    }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  let theme = read();
  const apply = () => {
    const isDark = theme === "dark" || (theme === "auto" && system.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = SIGNS[theme];
      button.setAttribute("aria-label", `Colours: ${LABELS[theme]}`);
      button.title = `Colours: ${LABELS[theme]}`;
    }
    document.dispatchEvent(new Event("themechange"));
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length];
      try {
        localStorage.setItem("mirrorlog-theme", theme);
      } catch {
        // Without storage the choice lasts as long as the page.
      }
      apply();
    });
  });
})();
