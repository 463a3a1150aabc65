// One concept as a card: what its probe reads, which side is bounded, and the bounds as sliders.
// A slider stops at round probabilities (0.0001 to 0.9999, dense at both ends); the number beside it takes any.

import { h } from "./dom.js";
import { digits, nearestStop, place, STOPS } from "./probability.js";

const SIDES = { upper: "at most", lower: "at least", between: "between" };
const START = { lower: 0.9, upper: 0.1 };
const KNOWN = ["probe", "lower", "upper", "layers", "metric"];

/** What a probe's probability is of, for people: "toxic". */
export const reads = (probe) => probe?.labels?.["1"] ?? probe?.positive_is ?? probe?.name ?? "concept";

/** What a probe is about, where that says more than its name. */
export const named = (probe) => (probe && probe.concept !== probe.name ? probe.concept : null);

/** A bound in one line: "P(toxic) ≤ 0.05". */
export function rule(constraint, probe) {
  const { lower, upper, space } = bounds(constraint, probe);
  const what = space === "probability" ? `P(${reads(probe)})` : `${space} of ${reads(probe)}`;
  const shown = (value) => (space === "probability" ? digits(value) : String(value));
  if (lower !== null && upper !== null) return `${shown(lower)} ≤ ${what} ≤ ${shown(upper)}`;
  if (lower !== null) return `${what} ≥ ${shown(lower)}`;
  return upper === null ? `${what}, no bound` : `${what} ≤ ${shown(upper)}`;
}

/** The bounds that hold: the constraint's own, else the probe's default. */
export function bounds(constraint, probe) {
  const { lower = null, upper = null, space = "probability" } = constraint;
  if (lower !== null || upper !== null || !probe) return { lower, upper, space };
  const { default: preset } = probe;
  return { lower: preset.lower, upper: preset.upper, space: preset.space ?? "probability" };
}

/** A constraint with a probe's default bounds, written out. */
export function fresh(probe) {
  const { lower, upper, space } = probe.default;
  const given = Object.fromEntries(Object.entries({ lower, upper }).filter(([, value]) => value !== null));
  return { probe: probe.id, ...given, ...(space === "probability" ? {} : { space }) };
}

/** The card. `changed(constraint)` gets the whole constraint after every change; `removed()` takes it away. */
export function card(constraint, { probe, index, metrics, changed, removed }) {
  const held = { ...constraint };
  const title = h("h3", {}, named(probe) ?? constraint.probe, " ", named(probe) && h("small", {}, constraint.probe));
  const told = h("output", { class: "rule" }, rule(held, probe));
  const sliders = h("div", { class: "sliders" });
  const fault = h("p", { class: "fault", id: `concept-${index}-fault`, hidden: true });

  function keep() {
    told.textContent = rule(held, probe);
    changed({ ...held });
  }

  function side() {
    const { lower, upper } = bounds(held, probe);
    return lower !== null && upper !== null ? "between" : lower !== null ? "lower" : "upper";
  }

  function choose(wanted) {
    const now = bounds(held, probe);
    for (const name of ["lower", "upper"]) {
      if (wanted === name || wanted === "between") held[name] = now[name] ?? START[name];
      else delete held[name];
    }
    if (wanted === "between" && held.lower > held.upper) [held.lower, held.upper] = [held.upper, held.lower];
    draw();
    keep();
  }

  function draw() {
    const { lower, upper, space } = bounds(held, probe);
    const shown = [
      ["lower", lower],
      ["upper", upper],
    ].filter(([, value]) => value !== null);
    sliders.replaceChildren(
      ...shown.map(([name, value]) =>
        bound({ name, value, index, space, of: reads(probe), changed: (next) => ((held[name] = next), keep()) }),
      ),
    );
  }

  const sides = h(
    "select",
    { "aria-label": `Side of ${constraint.probe}`, onchange: (event) => choose(event.target.value) },
    ...Object.entries(SIDES).map(([value, label]) => h("option", { value, selected: value === side() }, label)),
  );
  draw();
  return h(
    "article",
    { class: "concept", "aria-label": constraint.probe, "data-index": index },
    h(
      "header",
      {},
      title,
      h(
        "button",
        { type: "button", class: "quiet icon", "aria-label": `Remove ${constraint.probe}`, onclick: removed },
        "×",
      ),
    ),
    h("div", { class: "held" }, sides, told),
    sliders,
    fault,
    more(held, { probe, metrics, keep }),
  );
}

function bound({ name, value, index, space, of, changed }) {
  const label = `${name === "lower" ? "Lower" : "Upper"} bound on P(${of})`;
  const number = h("input", {
    type: "number",
    step: "any",
    value,
    "aria-label": space === "probability" ? label : `${name} bound, ${space}`,
    "data-param": `steering.constraints.${index}.${name}`,
    "aria-describedby": `concept-${index}-fault`,
  });
  if (space !== "probability") {
    number.addEventListener("change", () => changed(number.valueAsNumber));
    return h("div", { class: "bound" }, h("span", { class: "small" }, `${name}, ${space}`), number);
  }
  const slider = h("input", {
    type: "range",
    min: 0,
    max: STOPS.length - 1,
    step: 1,
    value: nearestStop(value),
    "aria-label": label,
    class: name,
    "aria-describedby": `concept-${index}-fault`,
  });
  function show(p) {
    slider.style.setProperty("--at", `${(100 * Number(slider.value)) / (STOPS.length - 1)}%`);
    slider.setAttribute("aria-valuetext", `${name === "lower" ? "at least" : "at most"} ${digits(p)}`);
  }
  slider.addEventListener("input", () => {
    const p = STOPS[Number(slider.value)];
    number.value = p;
    show(p);
    changed(p);
  });
  number.addEventListener("input", () => {
    if (number.value === "") return;
    slider.value = nearestStop(Math.min(Math.max(number.valueAsNumber, 0), 1));
    show(number.valueAsNumber);
    changed(number.valueAsNumber);
  });
  show(value);
  return h("div", { class: "bound" }, slider, number);
}

/** Layers, metric, and whatever a policy brought that has no control here. */
function more(held, { probe, metrics, keep }) {
  const layers = h("input", {
    type: "text",
    value: Array.isArray(held.layers) ? held.layers.join(", ") : (held.layers ?? "default"),
    list: "layer-words",
    spellcheck: "false",
    onchange: (event) => {
      const words = event.target.value.trim();
      if (words === "" || words === "default") delete held.layers;
      else held.layers = words === "all" ? "all" : words.split(/[\s,]+/).map(Number);
      keep();
    },
  });
  const metric = h(
    "select",
    {
      onchange: (event) => {
        if (event.target.value) held.metric = event.target.value;
        else delete held.metric;
        keep();
      },
    },
    h("option", { value: "" }, `default (${probe?.default.metric ?? "of the probe"})`),
    ...metrics.map((name) => h("option", { value: name, selected: held.metric === name }, name)),
  );
  const others = Object.entries(held).filter(([name]) => !KNOWN.includes(name));
  const causal =
    probe?.causal === false
      ? h("p", { class: "warn" }, "Marked not causal: steering this probe did not beat its placebo.")
      : null;
  const at = probe ? `${probe.default.layers.join(", ")} by default; the probe has ${probe.layers.length}` : "";
  return h(
    "details",
    {},
    h("summary", {}, "Layers and metric"),
    h("label", {}, "Layers ", layers),
    h("p", { class: "small" }, `default, all, or block numbers. ${at}`),
    h("label", {}, "Metric of the smallest change ", metric),
    others.length
      ? h("p", { class: "small" }, `Also: ${others.map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", ")}`)
      : null,
    causal,
  );
}
