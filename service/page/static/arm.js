// One side of a run as it grows: its tokens, what was read where, and how it ended.
//
// A reading has an offset: -1 is the last token of the prompt, 0 the first new one. The state read at offset k - 1 is
// the one that wrote token k; so a token is coloured by its writer. Bytes that are no whole character yet arrive as a
// chunk without text, and join the next chunk's token.

export class Arm {
  constructor(name) {
    this.name = name;
    this.tokens = [];
    this.readings = new Map(); // offset -> {probes: {id: [before, after]}, doses: {id: dose}, violated: [id]}
    this.count = 0;
    this.state = "waiting"; // streaming, done, stopped, broken
    this.finish = null;
    this.steering = null;
    this.trouble = null;
    this.ids = [];
  }

  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  /** Take one chunk of the stream in. */
  add(chunk) {
    const [choice] = chunk.choices ?? [];
    if (!choice) return;
    this.state = "streaming";
    const { tokens = [], ...summary } = choice.steering ?? {};
    for (const reading of tokens) this.readings.set(reading.offset, reading);
    if (summary.probes) this.steering = summary;
    const text = choice.text ?? choice.delta?.content ?? "";
    this.ids.push(...(choice.token_ids ?? []));
    if (text !== "") this.#close(text);
    if (choice.finish_reason) {
      this.finish = choice.finish_reason;
      if (this.ids.length > 0) this.#close("");
      this.state = "done";
    }
  }

  /** The probabilities of the state that wrote a token, or of the strongest of those that wrote its parts. */
  reading(token, probe, { after }) {
    const found = this.#readings(token, probe).map((reading) => reading.probes[probe]?.[after ? 1 : 0] ?? null);
    return found.every((value) => value === null) ? null : Math.max(...found.filter((value) => value !== null));
  }

  /** The largest dose on the way to a token; null where it is not told. */
  dose(token, probe) {
    const doses = this.#readings(token, probe).map((reading) => reading.doses?.[probe] ?? null);
    return doses.includes(null) || doses.length === 0 ? null : Math.max(...doses);
  }

  violated(token, probe) {
    return this.#readings(token, probe).some((reading) => reading.violated?.includes(probe));
  }

  #readings(token, probe) {
    const found = [];
    for (let offset = token.first - 1; offset < token.first - 1 + Math.max(1, token.ids.length); offset += 1) {
      const reading = this.readings.get(offset);
      if (reading && probe in reading.probes) found.push(reading);
    }
    return found;
  }

  #close(text) {
    this.tokens.push({ index: this.tokens.length, first: this.count, ids: this.ids, text });
    this.count += Math.max(1, this.ids.length);
    this.ids = [];
  }
}
