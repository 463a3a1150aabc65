// What is known of one token: itself, what each probe read before and after, the dose, and every layer once the text is
// whole. Opened by hover, focus or tap; Escape closes it.

import { rule } from "./concept.js";
import { layersChart } from "./layers.js";
import { h } from "./dom.js";
import { digits, percent } from "./probability.js";

export class Tip {
  constructor(root) {
    this.root = root;
    this.owner = null;
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** Show `token` of `arm` beside `anchor`; `view` names the probe whose layers are drawn. */
  open(anchor, { run, arm, token, view, probes }) {
    if (this.owner === anchor && this.isOpen) return;
    this.close();
    this.owner = anchor;
    anchor.setAttribute("aria-describedby", this.root.id);
    const layers = h("div", { class: "layers" });
    this.root.replaceChildren(
      h("p", { class: "what" }, h("code", {}, visible(token.text)), h("span", {}, ids(token))),
      ...run.setup.constraints.map((constraint) =>
        reading(
          arm,
          token,
          constraint,
          probes.find(({ id }) => id === constraint.probe),
        ),
      ),
      layers,
    );
    this.root.hidden = false;
    this.#beside(anchor);
    if (view.constraint && !run.live) this.#layers(layers, { anchor, run, arm, token, view });
  }

  /** Stay beside the token while the page moves; go when it has left the screen. */
  follow() {
    if (!this.isOpen) return;
    const { top, bottom } = this.owner.getBoundingClientRect();
    if (bottom < 0 || top > window.innerHeight) this.close();
    else this.#beside(this.owner);
  }

  close() {
    this.owner?.removeAttribute("aria-describedby");
    this.owner = null;
    this.root.hidden = true;
  }

  async #layers(place, { anchor, run, arm, token, view }) {
    place.textContent = "Reading every layer…";
    const found = await run.layers(arm, view.constraint.probe);
    if (this.owner !== anchor) return;
    const at = found?.tokens?.findIndex(({ offset }) => offset === token.first - 1) ?? -1;
    if (at < 0) place.replaceChildren();
    else place.replaceChildren(layersChart(found, at, view));
    this.#beside(anchor);
  }

  #beside(anchor) {
    const [line] = anchor.getClientRects();
    const { offsetWidth: width, offsetHeight: height } = this.root;
    const room = document.documentElement.clientWidth - width - 8;
    const left = Math.max(8, Math.min(line.left, room));
    const below = line.bottom + 8;
    const top = below + height > window.innerHeight && line.top - height - 8 > 0 ? line.top - height - 8 : below;
    this.root.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}

function reading(arm, token, constraint, probe) {
  const [before, after] = [false, true].map((late) => arm.reading(token, constraint.probe, { after: late }));
  const dose = arm.dose(token, constraint.probe);
  const values =
    before === null ? "not read" : before === after ? digits(before) : `${digits(before)} → ${digits(after)}`;
  return h(
    "p",
    { class: "read" },
    h("span", { class: "name" }, rule(constraint, probe)),
    h("span", { class: "values" }, values),
    dose === null || before === null
      ? null
      : h("span", { class: "dose" }, dose > 0 ? `dose ${percent(dose)}` : "not edited"),
    arm.violated(token, constraint.probe) ? h("strong", {}, "outside the bound") : null,
  );
}

const ids = ({ ids: found }) => (found.length ? `${found.length === 1 ? "token" : "tokens"} ${found.join(", ")}` : "");

/** A token's text with its spaces and line ends to be seen. */
export const visible = (text) =>
  text === "" ? "end of text" : text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
