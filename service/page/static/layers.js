// The layers of one token as a small chart: at each that is held the probability before, after, and the bound.

import { bounds, reads } from "./concept.js";
import { h, s } from "./dom.js";
import { digits, place } from "./probability.js";

const [WIDTH, HEIGHT, EDGE] = [232, 72, 6];

/** `found` is the answer of the score route, `at` the row of the token in it. */
export function layersChart(found, at, { constraint, probe }) {
  const { layers } = found;
  const [before, after] = [found.pre[at], found.post[at]];
  const x = (index) => EDGE + ((WIDTH - 2 * EDGE) * (index + 0.5)) / layers.length;
  const y = (p) => HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * place(p);
  const known = layers
    .map((layer, index) => ({ layer, index, pre: before[index], post: after[index] }))
    .filter(({ pre }) => pre !== null);
  const { lower, upper, space } = bounds(constraint, probe);
  const held = new Set(heldLayers(constraint, probe));
  const lines = space === "probability" ? [lower, upper].filter((bound) => bound !== null) : [];
  const chart = s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": told(known, probe) },
    s("line", { class: "axis", x1: EDGE, x2: WIDTH - EDGE, y1: y(0.5), y2: y(0.5) }),
    ...lines.map((bound) => s("line", { class: "bound", x1: EDGE, x2: WIDTH - EDGE, y1: y(bound), y2: y(bound) })),
    ...known.flatMap(({ layer, index, pre, post }) =>
      held.has(layer)
        ? [
            s("line", { class: "stem", x1: x(index), x2: x(index), y1: y(pre), y2: y(post) }),
            s("circle", { class: "before", cx: x(index), cy: y(pre), r: 2.6 }),
            s("circle", { class: "after", cx: x(index), cy: y(post), r: 2.2 }),
          ]
        : [s("circle", { class: "free", cx: x(index), cy: y(post), r: 1.5 })],
    ),
  );
  const ends = known.length ? `layers ${known[0].layer} to ${known.at(-1).layer}` : "no calibrated layer";
  return h("figure", {}, chart, h("figcaption", {}, `P(${reads(probe)}), ${ends}; grey: not held`));
}

function heldLayers({ layers = "default" }, probe) {
  return layers === "all" ? probe.layers : Array.isArray(layers) ? layers : probe.default.layers;
}

const told = (known, probe) =>
  `P(${reads(probe)}) by layer: ${known.map(({ layer, pre, post }) => `${layer}: ${digits(pre)}${pre === post ? "" : ` to ${digits(post)}`}`).join("; ")}`;
