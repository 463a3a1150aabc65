// A run as code, below the findings: of the last run, or of what Run would send.

import { address } from "./api.js";
import { byId } from "./dom.js";
import { ARMS, body, route } from "./request.js";
import { curl, openai } from "./snippet.js";

export class CodePanel {
  constructor() {
    this.what = null;
    for (const radio of document.querySelectorAll("[name=language]")) {
      radio.addEventListener("change", () => this.draw(this.what));
    }
    byId("copy-code").addEventListener("click", ({ target }) => {
      const text = byId("code-text");
      copy(target, text.textContent).catch(() => getSelection().selectAllChildren(text)); // no clipboard: selected
    });
  }

  /** Show `run`; without one, what a run of `setup` on `model` would be. Nothing without a model. */
  draw(what) {
    this.what = what;
    const { run, model } = what;
    const setup = run?.setup ?? { ...what.setup, seed: what.setup.seed ?? 1 };
    const bodies = run?.bodies ?? Object.fromEntries(ARMS.map((arm) => [arm, body(setup, arm, { model })]));
    const { value: language } = document.querySelector("[name=language]:checked");
    byId("code").hidden = model === null;
    byId("code").querySelector("summary").textContent = title(run);
    byId("code-text").textContent =
      language === "curl"
        ? curl(bodies, { address: address(route(setup)) })
        : openai(bodies, setup, { base: address("v1"), model });
  }
}

/** Put `text` on the clipboard, and say so on the button and to those who listen. */
export async function copy(button, text) {
  button.dataset.label ??= button.textContent;
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  byId("said").textContent = "Copied";
  setTimeout(() => (button.textContent = button.dataset.label), 1500);
}

function title(run) {
  if (!run) return "What Run sends, as code";
  return run.refused ? "What was refused, as code" : "This run as code";
}
