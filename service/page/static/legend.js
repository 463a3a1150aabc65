// What the colours and the underlines mean.

import { h } from "./dom.js";
import { EDGES } from "./probability.js";

export function drawLegend(place, what) {
  const names = ["0", ...EDGES.map(String)];
  place.replaceChildren(
    h("span", {}, `P(${what})`),
    h(
      "span",
      {
        class: "scale",
        role: "img",
        "aria-label": `darker is more probable, in seven steps that begin at ${names.join(", ")}`,
      },
      ...names.map((name, index) => h("span", { class: "token", "data-level": index }, name)),
    ),
    h("span", { class: "token outside" }, "outside"),
    h("span", { class: "token edited" }, "edited"),
  );
}
