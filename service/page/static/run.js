// A run: both arms at once, over one signal. What cannot begin is tried again where the server says when (loading, a
// full queue); what breaks midway keeps its text and says so.

import { Broken, get, post, Refusal, stream } from "./api.js";
import { Arm } from "./arm.js";
import { ARMS, body, route } from "./request.js";

export class Run {
  /** `setup` has a seed. `changed()` is called after every chunk, `waiting(reason, seconds)` before a retry. */
  constructor(setup, { model, changed, waiting }) {
    this.setup = setup;
    this.bodies = Object.fromEntries(ARMS.map((arm) => [arm, body(setup, arm, { model })]));
    this.changed = changed;
    this.waiting = waiting;
    this.control = new AbortController();
    this.scores = new Map();
    this.#reset();
  }

  /** Until both arms have ended. Throws what kept the run from beginning; never what broke it later. */
  async go() {
    for (;;) {
      try {
        await this.#both();
        return;
      } catch (error) {
        const seconds = retryable(error);
        if (seconds === null || this.control.signal.aborted) throw error;
        await this.#wait(error, seconds);
        this.#reset();
      }
    }
  }

  stop() {
    this.control.abort();
  }

  get live() {
    return Object.values(this.arms).some((arm) => arm.state === "waiting" || arm.state === "streaming");
  }

  /**
   * Every layer's probabilities of one arm, `{layers, pre, post}` by token; null where the server does not tell.
   * One request per arm and probe, kept.
   */
  layers(arm, probe) {
    const name = `${arm.name} ${probe}`;
    if (!this.scores.has(name))
      this.scores.set(
        name,
        readLayers(this, arm, probe).catch(() => null),
      );
    return this.scores.get(name);
  }

  #reset() {
    this.arms = Object.fromEntries(ARMS.filter((arm) => this.bodies[arm]).map((arm) => [arm, new Arm(arm)]));
  }

  async #both() {
    const { signal } = this.control;
    const each = new AbortController();
    const either = AbortSignal.any([signal, each.signal]);
    const refused = [];
    await Promise.all(
      Object.values(this.arms).map(async (arm) => {
        try {
          for await (const chunk of stream(route(this.setup), this.bodies[arm.name], { signal: either })) {
            arm.add(chunk);
            this.changed();
          }
          if (arm.state !== "done") throw new Broken("the stream ended before the text did");
        } catch (error) {
          arm.state = signal.aborted ? "stopped" : "broken";
          arm.trouble = error;
          if (!signal.aborted && !(error instanceof Broken) && error.name !== "AbortError") {
            refused.push(error);
            each.abort(); // the one side without the other shows nothing
          }
          this.changed();
        }
      }),
    );
    if (refused.length > 0) throw refused[0];
  }

  async #wait(error, seconds) {
    if (error.code === "loading") {
      this.waiting("loading", null);
      for (;;) {
        await pause(1, this.control.signal);
        const ready = await get("ready", { signal: this.control.signal }).catch((other) => other);
        if (!(ready instanceof Refusal) || ready.code !== "loading") return;
      }
    }
    for (let left = seconds; left > 0; left -= 1) {
      this.waiting("full", left);
      await pause(1, this.control.signal);
    }
  }
}

/** Seconds after which a refusal is worth another try; null for never. */
function retryable(error) {
  if (!(error instanceof Refusal)) return null;
  if (error.code === "loading") return 1;
  return error.status === 503 && error.retryAfter !== null ? Math.ceil(error.retryAfter) : null;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => reject(new DOMException("stopped", "AbortError"));
    if (signal.aborted) stopped();
    signal.addEventListener("abort", stopped, { once: true });
    setTimeout(resolve, 1000 * seconds);
  });
}

async function readLayers(run, arm, probe) {
  const { prompt, messages } = run.bodies[arm.name];
  const steering = arm.name === "steered" ? run.bodies.steered.steering : null;
  const asked = messages ? { messages } : { prompt };
  const ids = arm.tokens.flatMap((token) => token.ids);
  return post(`v1/steering/probes/${encodeURIComponent(probe)}/score`, { ...asked, completion: ids, steering });
}
