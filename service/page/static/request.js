// From a setup to the two requests of a run. Same prompt, sampling and seed; the first reads every probe and edits
// nothing (mode monitor), the second steers (mode enforce). So both sides are read alike, and stream together.

export const ARMS = ["unsteered", "steered"];

const MODE = { unsteered: "monitor", steered: "enforce" };

/** Where a setup is sent. */
export const route = (setup) => (setup.mode === "chat" ? "v1/chat/completions" : "v1/completions");

/** The body of one arm; null for a steered arm without anything to steer. */
export function body(setup, arm, { model } = {}) {
  if (arm === "steered" && setup.constraints.length === 0) return null;
  const { prompt, messages, temperature, top_p, max_tokens, seed } = setup;
  const asked = setup.mode === "chat" ? { messages } : { prompt };
  const steering = setup.constraints.length === 0 ? {} : { steering: steeringField(setup, MODE[arm]) };
  return { ...(model ? { model } : {}), ...asked, max_tokens, temperature, top_p, seed, stream: true, ...steering };
}

/** The `steering` field: what is held, and that every token is reported. */
export function steeringField(setup, mode) {
  const relaxed = setup.on_infeasible ? { on_infeasible: setup.on_infeasible } : {};
  return { mode, constraints: setup.constraints, ...relaxed, report: "tokens" };
}

/** A seed like those the server draws, small enough to read aloud. */
export const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
