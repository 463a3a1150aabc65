// Below the texts, for each concept: the verdict, the chart, the sentences, and the numbers as a table.

import { named, reads, rule } from "./concept.js";
import { h } from "./dom.js";
import { digits, percent } from "./probability.js";
import { visible } from "./tip.js";
import { key, trace } from "./trace.js";
import { findings } from "./words.js";

export class Findings {
  constructor(root, { over }) {
    this.root = root;
    this.over = over;
    this.charts = [];
  }

  clear() {
    this.charts = [];
    this.root.replaceChildren();
  }

  /** Draw what is known of a run so far. */
  draw(run, probes) {
    if (!run.arms.steered) {
      this.clear();
      return;
    }
    if (this.root.childElementCount !== run.setup.constraints.length || this.run !== run) this.#frames(run, probes);
    const width = Math.max(
      280,
      Math.round(this.root.clientWidth - 2 * parseFloat(getComputedStyle(this.charts[0].figure).paddingLeft || 0)),
    );
    this.charts.forEach((part) => {
      part.chart = trace(run.arms, part.constraint, part.probe, { width, over: this.over });
      part.place.replaceChildren(part.chart);
      this.#words(part, run);
    });
  }

  point(index) {
    this.charts.forEach(({ chart }) => chart?.point(index));
  }

  #frames(run, probes) {
    this.run = run;
    this.charts = run.setup.constraints.map((constraint) => {
      const probe = probes.find(({ id }) => id === constraint.probe);
      const part = {
        constraint,
        probe,
        place: h("div", {}),
        verdict: h("p", { class: "verdict" }),
        words: h("p", { class: "words" }),
        table: h("div", { class: "scroll" }),
      };
      part.details = h(
        "details",
        {
          hidden: true,
          ontoggle: () => part.details.open && part.table.replaceChildren(table(run, constraint, probe)),
        },
        h("summary", {}, "Every token as a table"),
        part.table,
      );
      part.figure = h(
        "section",
        { class: "finding", "aria-label": `Findings on ${constraint.probe}` },
        h("h3", {}, named(probe) ?? constraint.probe, " ", h("small", {}, rule(constraint, probe))),
        part.verdict,
        key(),
        part.place,
        part.words,
        part.details,
      );
      return part;
    });
    this.root.replaceChildren(...this.charts.map(({ figure }) => figure));
  }

  #words(part, run) {
    const found = run.live ? null : findings(part.constraint, part.probe, run.arms);
    part.details.hidden = run.live;
    if (!found) {
      const unfinished = !run.live && !run.arms.steered.steering;
      part.verdict.textContent = unfinished
        ? "The text is incomplete, so the server's count of violations never came."
        : "";
      part.verdict.dataset.held = "unknown";
      part.words.textContent = "";
      return;
    }
    part.verdict.textContent = found.verdict;
    part.verdict.dataset.held = found.held === null ? "unknown" : String(found.held);
    part.words.textContent = found.sentences.join(" ");
  }
}

function table(run, constraint, probe) {
  const { steered, unsteered } = run.arms;
  const id = constraint.probe;
  const cell = (value) => h("td", {}, value === null || value === undefined ? "" : value);
  const shown = (arm, token, after) => {
    const p = token && arm.reading(token, id, { after });
    return p === null || p === undefined ? null : digits(p);
  };
  const rows = Array.from({ length: Math.max(steered.tokens.length, unsteered.tokens.length) }, (_, at) => {
    const [plain, held] = [unsteered.tokens[at], steered.tokens[at]];
    const dose = held && steered.dose(held, id);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, String(at + 1)),
      cell(plain && h("code", {}, visible(plain.text))),
      cell(shown(unsteered, plain, true)),
      cell(held && h("code", {}, visible(held.text))),
      cell(shown(steered, held, false)),
      cell(shown(steered, held, true)),
      cell(dose ? percent(dose) : null),
      cell(held && steered.violated(held, id) ? "outside" : null),
    );
  });
  const heads = ["", "unsteered", `P(${reads(probe)})`, "steered", "before", "after", "dose", "bound"];
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, ...rows),
  );
}
