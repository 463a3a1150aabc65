// The form and the setup it stands for: fields to setup on every change, setup to fields when one is put in.

import { card, fresh } from "./concept.js";
import { byId, h } from "./dom.js";
import { examplesFor } from "./examples.js";
import { checked, EMPTY } from "./setup.js";
import { drawTurns } from "./turns.js";

const NUMBERS = ["temperature", "top_p", "max_tokens"];

export class Form {
  /** `changed()` is called after every change by the reader. */
  constructor({ changed }) {
    this.changed = changed;
    this.setup = structuredClone(EMPTY);
    this.offer = { probes: [], policies: [], metrics: [] };
    byId("prompt").addEventListener("input", (event) => this.#set({ prompt: event.target.value }));
    for (const name of [...NUMBERS, "seed"])
      byId(name).addEventListener("input", (event) => this.#number(name, event.target));
    for (const radio of document.querySelectorAll("[name=mode]")) {
      radio.addEventListener("change", () => {
        this.#set({ mode: radio.value });
        this.#modes();
      });
    }
    byId("add-turn").addEventListener("click", () => {
      const last = this.setup.messages.at(-1);
      this.#turns(
        [...this.setup.messages, { role: last?.role === "user" ? "assistant" : "user", content: "" }],
        this.setup.messages.length,
      );
    });
    byId("add-system").addEventListener("click", () =>
      this.#turns([{ role: "system", content: "" }, ...this.setup.messages], 0),
    );
    byId("preset").addEventListener("change", (event) => this.#preset(event.target.value));
  }

  /** What the server has. */
  offered(offer) {
    this.offer = offer;
    const names = offer.policies.map(({ name }) => name);
    byId("preset").replaceChildren(
      h("option", { value: "" }, "none"),
      ...names.map((name) => h("option", { value: name }, name)),
    );
    byId("preset-part").hidden = names.length === 0;
    const examples = examplesFor(offer.probes);
    byId("examples").replaceChildren(
      byId("examples-label"),
      ...examples.map(({ title, setup }) =>
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              this.put({ ...EMPTY, ...setup });
              this.changed();
            },
          },
          title,
        ),
      ),
    );
    this.put(this.setup);
  }

  /** Whether nothing has been put in yet. */
  get untouched() {
    return JSON.stringify(this.setup) === JSON.stringify(EMPTY);
  }

  /** Show a setup, whatever it was made from. */
  put(raw) {
    this.setup = checked(raw);
    byId("prompt").value = this.setup.prompt;
    for (const name of NUMBERS) byId(name).value = this.setup[name];
    byId("seed").value = this.setup.seed ?? "";
    document.querySelector(`[name=mode][value=${this.setup.mode}]`).checked = true;
    this.#modes();
    this.#turns(this.setup.messages, null, { silent: true });
    this.#concepts();
  }

  /** Add the answer to a chat, and a turn to go on with. */
  goOn(answer) {
    this.#turns(
      [...this.setup.messages, { role: "assistant", content: answer }, { role: "user", content: "" }],
      this.setup.messages.length + 1,
    );
  }

  #set(change) {
    Object.assign(this.setup, change);
    this.#note();
    this.changed();
  }

  #number(name, field) {
    const empty = name === "seed" ? null : EMPTY[name];
    this.#set({ [name]: field.value === "" ? empty : field.valueAsNumber });
  }

  #modes() {
    byId("prompt-part").hidden = this.setup.mode !== "prompt";
    byId("chat-part").hidden = this.setup.mode !== "chat";
    byId("examples").hidden = this.setup.mode === "chat" || byId("examples").childElementCount < 2;
    this.#note();
  }

  /** What is to be said of the example that is in the form. */
  #note() {
    const { prompt, mode } = this.setup;
    const note = examplesFor(this.offer.probes).find(({ setup }) => setup.prompt === prompt)?.note;
    byId("example-note").textContent = note ?? "";
    byId("example-note").hidden = mode === "chat" || !note;
  }

  #turns(messages, focus, { silent = false } = {}) {
    const same = messages === this.setup.messages && focus === null && !silent;
    this.setup.messages = messages.length ? messages : structuredClone(EMPTY.messages);
    if (!same) drawTurns(byId("turns"), this.setup.messages, (next, at) => this.#turns(next, at));
    if (focus !== null) byId(`turn-${focus}`)?.focus();
    if (!silent) this.changed();
  }

  #preset(name) {
    const policy = this.offer.policies.find((one) => one.name === name);
    const { constraints = [], on_infeasible = null } = policy?.steering ?? {};
    this.put({ ...this.setup, constraints, on_infeasible });
    byId("preset").title = policy?.about ?? "";
    this.changed();
  }

  #concepts() {
    const { constraints } = this.setup;
    const { probes, metrics } = this.offer;
    const update = (next) => {
      this.setup.constraints = next;
      this.#concepts();
      this.changed();
    };
    const find = (name) => probes.find(({ id }) => id === name) ?? probes.find((probe) => probe.name === name);
    byId("probes").replaceChildren(
      ...probes.map((probe) => {
        const at = constraints.findIndex((constraint) => find(constraint.probe) === probe);
        const toggle = () => {
          update(at >= 0 ? constraints.filter((_, index) => index !== at) : [...constraints, fresh(probe)]);
          [...byId("probes").children].find((chip) => chip.dataset.probe === probe.id)?.focus();
        };
        return h(
          "button",
          {
            type: "button",
            "aria-pressed": String(at >= 0),
            "data-probe": probe.id,
            title: `${probe.id}: how likely ${probe.positive_is}`,
            onclick: toggle,
          },
          probes.some((other) => other !== probe && other.name === probe.name) ? probe.id : probe.name,
        );
      }),
    );
    byId("concepts").replaceChildren(
      ...constraints.map((constraint, index) =>
        card(constraint, {
          probe: find(constraint.probe),
          index,
          metrics,
          changed: (next) =>
            this.#set({ constraints: this.setup.constraints.map((old, at) => (at === index ? next : old)) }),
          removed: () => update(this.setup.constraints.filter((_, at) => at !== index)),
        }),
      ),
    );
  }
}
