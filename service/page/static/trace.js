// A concept over the tokens, drawn by hand: the probability before (hollow) and after (filled) with the step between,
// the unsteered text beside it, the bound as a line and what lies beyond it shaded; below, the dose of each token.

import { bounds, reads, rule } from "./concept.js";
import { h, s } from "./dom.js";
import { digits, percent, place, TICKS } from "./probability.js";

const LEFT = 48;
const RIGHT = 8;
const TOP = 8;
const HIGH = 168;
const GAP = 22;
const DOSES = 40;

/** The chart of one constraint as an `<svg>`; `over(index | null)` tells which token the pointer is at. */
export function trace({ steered, unsteered }, constraint, probe, { width, over }) {
  const id = constraint.probe;
  const count = Math.max(steered?.tokens.length ?? 0, unsteered?.tokens.length ?? 0, 12);
  const step = (width - LEFT - RIGHT) / count;
  const x = (index) => LEFT + step * (index + 0.5);
  const y = (p) => TOP + HIGH * (1 - place(p));
  const size = Math.min(3.4, Math.max(1.4, step / 3.2));
  const height = TOP + HIGH + GAP + DOSES + 18;
  const points = (arm, after) =>
    (arm?.tokens ?? [])
      .map((token) => ({ index: token.index, p: arm.reading(token, id, { after }) }))
      .filter(({ p }) => p !== null);
  const [twin, before, then] = [points(unsteered, true), points(steered, false), points(steered, true)];
  const from = new Map(before.map(({ index, p }) => [index, p]));

  const root = s("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "img",
    class: "trace",
    "aria-label": told(constraint, probe, { twin, before, then }),
  });
  root.append(
    ...shade(constraint, probe, { y, width }),
    ...TICKS.map((tick) => s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) })),
    ...TICKS.map((tick) =>
      s("text", { class: "tick", x: LEFT - 6, y: y(tick) + 3.5, "text-anchor": "end" }, String(tick)),
    ),
    s("polyline", { class: "twin", points: twin.map(({ index, p }) => `${x(index)},${y(p)}`).join(" ") }),
    ...twin.map(({ index, p }) =>
      s("rect", {
        class: "twin",
        x: x(index) - size * 0.8,
        y: y(p) - size * 0.8,
        width: size * 1.6,
        height: size * 1.6,
      }),
    ),
    ...then
      .filter(({ index, p }) => from.get(index) !== p)
      .map(({ index, p }) =>
        s("line", { class: "stem", x1: x(index), x2: x(index), y1: y(from.get(index)), y2: y(p) }),
      ),
    ...before.map(({ index, p }) => s("circle", { class: "before", cx: x(index), cy: y(p), r: size })),
    ...then.map(({ index, p }) => s("circle", { class: "after", cx: x(index), cy: y(p), r: size * 0.85 })),
    ...doses(steered, id, { x, step, top: TOP + HIGH + GAP, width }),
    s("rect", {
      class: "cursor",
      visibility: "hidden",
      x: 0,
      y: TOP,
      width: Math.max(2, step),
      height: height - TOP - 16,
    }),
  );
  root.addEventListener("pointermove", (event) => {
    const at = (event.clientX - root.getBoundingClientRect().left) * (width / root.getBoundingClientRect().width);
    const index = Math.floor((at - LEFT) / step);
    over(index >= 0 && index < count ? index : null);
  });
  root.addEventListener("pointerleave", () => over(null));
  root.point = (index) => {
    const cursor = root.querySelector(".cursor");
    cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
    cursor.setAttribute("x", LEFT + step * (index ?? 0));
  };
  return root;
}

/** The words beside the marks. */
export function key() {
  const mark = (kind) =>
    s(
      "svg",
      { viewBox: "0 0 14 10", width: 14, height: 10, "aria-hidden": "true" },
      kind === "bound"
        ? s("line", { class: "bound", x1: 0, x2: 14, y1: 5, y2: 5 })
        : kind === "twin"
          ? s("rect", { class: "twin", x: 4.5, y: 2.5, width: 5, height: 5 })
          : s("circle", { class: kind, cx: 7, cy: 5, r: 3.2 }),
    );
  const words = { twin: "unsteered", before: "steered, before the edit", after: "after it", bound: "bound" };
  return h("p", { class: "key" }, ...Object.entries(words).map(([kind, word]) => h("span", {}, mark(kind), word)));
}

function shade(constraint, probe, { y, width }) {
  const { lower, upper, space } = bounds(constraint, probe);
  if (space !== "probability") return [];
  const zone = (from, to) =>
    s("rect", {
      class: "beyond",
      x: LEFT,
      y: y(to),
      width: width - LEFT - RIGHT,
      height: Math.max(0, y(from) - y(to)),
    });
  const line = (p) => s("line", { class: "bound", x1: LEFT, x2: width - RIGHT, y1: y(p), y2: y(p) });
  return [
    ...(upper === null ? [] : [zone(upper, 1), line(upper)]),
    ...(lower === null ? [] : [zone(0, lower), line(lower)]),
  ];
}

function doses(arm, id, { x, step, top, width }) {
  const found = (arm?.tokens ?? []).map((token) => ({
    index: token.index,
    dose: arm.dose(token, id),
    bad: arm.violated(token, id),
  }));
  const most = Math.max(...found.map(({ dose }) => dose ?? 0), 1e-9);
  const base = top + DOSES;
  const bars = found
    .filter(({ dose }) => dose)
    .map(({ index, dose }) => {
      const tall = Math.max(1, (DOSES * dose) / most);
      return s("rect", {
        class: "dose",
        x: x(index) - step * 0.32,
        y: base - tall,
        width: Math.max(1, step * 0.64),
        height: tall,
        rx: Math.min(1.5, step / 6),
      });
    });
  const marks = found
    .filter(({ bad }) => bad)
    .map(({ index }) => s("text", { class: "bad", x: x(index), y: top - 2, "text-anchor": "middle" }, "×"));
  return [
    s("text", { class: "tick", x: LEFT - 6, y: top + 8, "text-anchor": "end" }, most > 1e-9 ? percent(most) : ""),
    s("text", { class: "tick", x: LEFT - 6, y: base, "text-anchor": "end" }, "dose"),
    s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: base + 0.5, y2: base + 0.5 }),
    s("text", { class: "tick", x: LEFT, y: base + 15 }, "new tokens, from the first"),
    ...bars,
    ...marks,
  ];
}

function told(constraint, probe, { twin, before, then }) {
  const range = (points) =>
    points.length
      ? `${digits(Math.min(...points.map(({ p }) => p)))} to ${digits(Math.max(...points.map(({ p }) => p)))}`
      : "not read";
  return `P(${reads(probe)}) over the tokens, with ${rule(constraint, probe)}: unsteered ${range(twin)}; steered ${range(before)} before the edits, ${range(then)} after.`;
}
