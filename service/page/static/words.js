// What happened, in plain words. Nothing is rounded up: one violation is named, and what was not promised is not praised.

import { bounds, reads, rule } from "./concept.js";
import { digits, percent } from "./probability.js";

/** Sentences on one probe: `{held: true | false | null, verdict, sentences}`; held is null without a promise. */
export function findings(constraint, probe, { steered, unsteered }) {
  const report = steered.steering?.probes?.[constraint.probe];
  if (!report) return null;
  const told = rule(constraint, probe);
  const sentences = [
    `${report.edited} of ${many(report.tokens, "token")} read were edited` +
      (report.edited
        ? `; an edit moved the state by ${percent(report.mean_dose)} of its length on average, ${percent(report.max_dose)} at most.`
        : "."),
  ];
  const low = bounds(constraint, probe).upper === null;
  const extreme = low ? "lowest" : "highest";
  const [pre, post] = low ? [report.min_pre, report.min_post] : [report.max_pre, report.max_post];
  if (pre !== null) {
    sentences.push(
      `The ${extreme} P(${reads(probe)}) at any layer was ${digits(pre)} before the edits and ${digits(post)} after.`,
    );
  }
  const twin = unsteered?.steering?.probes?.[constraint.probe];
  if (twin) {
    sentences.push(`Unsteered, ${twin.violations} of ${many(twin.tokens, "token")} were outside the bound.`);
  }
  if (report.capped) sentences.push(`${many(report.capped, "token")} were left outside by the limit on the dose.`);
  if (report.infeasible) sentences.push(`At ${many(report.infeasible, "token")} the bounds contradict one another.`);
  return { ...verdict(report, told), sentences };
}

function verdict(report, told) {
  if (report.tokens === 0) return { held: null, verdict: `${told}: no token was read, so nothing is known.` };
  if (report.violations > 0) {
    const promise = report.promised ? "although it was promised" : "and it was not promised";
    return { held: false, verdict: `${told} was violated at ${many(report.violations, "token")}, ${promise}.` };
  }
  if (!report.promised) return { held: null, verdict: `${told} was not promised here; no violation was seen.` };
  if (report.capped || report.infeasible)
    return { held: null, verdict: `${told} gave way at some tokens, as allowed.` };
  return { held: true, verdict: `${told} held on every stored value.` };
}

/** One line for those who listen: how a run ended. */
export function ending(run, probes) {
  const parts = Object.values(run.arms).map((arm) => `${arm.name}: ${ended(arm)}. ${arm.text.trim()}`);
  const verdicts = run.setup.constraints.map((constraint) => {
    const probe = probes.find(({ id }) => id === constraint.probe);
    return run.arms.steered ? findings(constraint, probe, run.arms)?.verdict : null;
  });
  return [...parts, ...verdicts.filter(Boolean)].join("\n");
}

/** How one arm ended: "28 tokens, limit reached". */
export function ended(arm) {
  const tokens = many(arm.count, "token");
  if (arm.state === "stopped") return `${tokens}, stopped by you`;
  if (arm.state === "broken") return `${tokens}, incomplete`;
  return arm.finish === "stop" ? `${tokens}, ended by itself` : arm.finish ? `${tokens}, limit reached` : tokens;
}

export const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
