// Is the server there, and is its model? Watched until the answer is yes; then what it offers is read once.

import { get, Refusal } from "./api.js";

const AGAIN = 1500;

export class Connection {
  /** `show(state, words)` tells the state; `offered({model, probes, policies, metrics})` comes when there is a model. */
  constructor({ show, offered, askKey }) {
    Object.assign(this, { show, offered, askKey, watching: false });
  }

  /** Ask until the server is ready. Asking twice at once is asking once. */
  async watch() {
    if (this.watching) return;
    this.watching = true;
    try {
      while (!(await this.#ready())) await new Promise((resolve) => setTimeout(resolve, AGAIN));
    } finally {
      this.watching = false;
    }
  }

  async #ready() {
    try {
      const { model } = await get("ready");
      const [probes, policies, metrics] = await this.#offer();
      this.show("ready", model);
      this.offered({ model, probes, policies, metrics });
      return true;
    } catch (error) {
      if (!(error instanceof Refusal)) this.show("offline", "No answer from the server");
      else if (error.status === 401) {
        this.show("locked", "A key is needed");
        return !(await this.askKey()); // without one there is nothing to watch: the button asks again
      } else if (error.code === "loading") this.show("loading", "The model is loading…");
      else this.show("failed", error.message);
      return false;
    }
  }

  async #offer() {
    const otherwise = (value) => (error) => {
      if (error instanceof Refusal && error.status !== 401) return value; // a server without this route
      throw error;
    };
    const { data } = await get("v1/steering/probes"); // first alone: without a key there is one refusal, not three
    const [policies, metrics] = await Promise.all([
      get("v1/steering/policies")
        .then((found) => found.data ?? [])
        .catch(otherwise([])),
      get("v1/steering/capabilities")
        .then((found) => found.metrics ?? [])
        .catch(otherwise([])),
    ]);
    return [data, policies, metrics];
  }
}
