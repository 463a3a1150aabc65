// Light or dark, before the first paint: a classic script in <head>, since modules run only after it.
// The reader's choice is kept in this browser; without one the page is as the system is.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("tiller.theme");
  } catch {
    // storage is blocked: the choice lasts as long as the page
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
