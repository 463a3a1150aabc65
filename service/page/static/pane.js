// One side's text: the prompt in grey, then every token, coloured by the probability of the state that wrote it.
//
// Not by colour alone: outside the bound is a thick underline, edited is a dotted one, and each token says all of it in
// words. The tokens are one stop of the Tab key; the arrows go from one to the next.

import { h } from "./dom.js";
import { digits, level } from "./probability.js";
import { bounds, reads } from "./concept.js";
import { ended, many } from "./words.js";

export class Pane {
  /** `open(token, element)` shows a token's details, `close()` hides them. */
  constructor(root, { open, close, next }) {
    this.root = root;
    this.meta = root.querySelector(".meta");
    this.foot = root.querySelector(".foot");
    this.next = next;
    this.spans = [];
    this.at = 0;
    this.list = h("span", { class: "tokens", role: "listbox", "aria-orientation": "horizontal" });
    this.list.addEventListener("keydown", (event) => this.#move(event));
    this.list.addEventListener("pointerover", (event) => this.#with(event.target, open));
    this.list.addEventListener("click", (event) => this.#with(event.target, open));
    this.list.addEventListener("focusin", (event) => this.#with(event.target, open));
    this.list.addEventListener("focusout", close);
    this.list.addEventListener("pointerleave", close);
    this.text = root.querySelector(".text");
  }

  /** Begin anew: the prompt, and what is to be seen before the first token. */
  clear({ prompt = "", hint = "" } = {}) {
    this.spans = [];
    this.at = 0;
    this.list.replaceChildren();
    this.meta.textContent = "";
    this.foot.replaceChildren();
    this.root.removeAttribute("data-state");
    this.text.replaceChildren(h("span", { class: "asked" }, prompt), this.list, h("span", { class: "hint" }, hint));
  }

  /** Bring the pane up to date with its arm. `view` is `{constraint, probe, after}`; no constraint, no colours. */
  draw(arm, view, { all = false, chat = false } = {}) {
    this.arm = arm;
    this.view = view;
    if (arm.tokens.length < this.spans.length) this.clear();
    const from = all ? 0 : Math.max(0, this.spans.length);
    for (const token of arm.tokens.slice(this.spans.length)) {
      const { before, shown, kind, behind } = parts(token.text);
      const span = h(
        "span",
        { class: `token ${kind}`, role: "option", "aria-selected": "false", tabindex: "-1", "data-index": token.index },
        shown,
      );
      this.spans.push(span);
      this.list.append(before, span, behind);
    }
    arm.tokens.slice(from).forEach((token) => this.#colour(token));
    if (this.spans.length && from === 0) this.spans[this.at].tabIndex = 0;
    if (this.spans.length) this.text.querySelector(".hint").textContent = "";
    this.list.setAttribute("aria-label", `Tokens of the ${arm.name} text; use the arrow keys`);
    this.#state(arm, chat);
  }

  /** Mark the token with this index (from the charts), or none. */
  mark(index) {
    this.spans.forEach((span, at) => span.classList.toggle("marked", at === index));
  }

  #colour(token) {
    const span = this.spans[token.index];
    const { constraint, probe, after } = this.view;
    span.removeAttribute("data-level");
    span.classList.remove("outside", "edited");
    const name = JSON.stringify(token.text || "end of text");
    if (!constraint) {
      span.setAttribute("aria-label", name);
      return;
    }
    const [before, then] = [false, true].map((late) => this.arm.reading(token, constraint.probe, { after: late }));
    const shown = after ? then : before;
    if (shown === null) {
      span.setAttribute("aria-label", `${name}, not read`);
      return;
    }
    span.dataset.level = level(shown);
    const outside = after
      ? this.arm.violated(token, constraint.probe) || isOutside(shown, constraint, probe)
      : isOutside(shown, constraint, probe);
    const edited = (this.arm.dose(token, constraint.probe) ?? Number(before !== then)) > 0;
    span.classList.toggle("outside", outside);
    span.classList.toggle("edited", edited);
    const values = before === then ? digits(before) : `${digits(before)} before, ${digits(then)} after`;
    const marks = `${edited ? ", edited" : ""}${outside ? ", outside the bound" : ""}`;
    span.setAttribute("aria-label", `${name}, ${reads(probe)} ${values}${marks}`);
  }

  #state(arm, chat) {
    this.root.dataset.state = arm.state;
    this.text.setAttribute("aria-busy", String(arm.state === "streaming" || arm.state === "waiting"));
    this.meta.textContent =
      arm.state === "waiting" ? "waiting…" : arm.state === "streaming" ? `${many(arm.count, "token")}…` : ended(arm);
    const said = [];
    if (arm.state === "broken")
      said.push(h("strong", {}, `Incomplete: ${arm.trouble?.message ?? "the stream broke off"}`));
    if (arm.state === "stopped") said.push("Stopped: the text is as far as it came.");
    if (arm.steering?.policy) said.push(`The server held this text by its policy ${arm.steering.policy}.`);
    for (const warning of arm.steering?.warnings ?? []) said.push(h("span", { class: "warn" }, warning));
    if (arm.state === "done" && chat) {
      said.push(
        h("button", { type: "button", class: "quiet", onclick: () => this.next(arm) }, "Continue from this answer"),
      );
    }
    this.foot.replaceChildren(...said);
  }

  #with(element, act) {
    const span = element.closest?.(".token");
    if (span) act(this.arm, this.arm.tokens[Number(span.dataset.index)], span);
  }

  #move(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || this.spans.length === 0) return;
    event.preventDefault();
    this.spans[this.at].tabIndex = -1;
    this.spans[this.at].setAttribute("aria-selected", "false");
    this.at = Math.min(Math.max(this.at + steps[event.key], 0), this.spans.length - 1);
    this.spans[this.at].tabIndex = 0;
    this.spans[this.at].setAttribute("aria-selected", "true");
    this.spans[this.at].focus();
  }
}

/** A token's text with the space around it apart: colours begin and end with the word, also where lines break. */
function parts(text) {
  if (text === "") return { before: " ", shown: "end", kind: "end", behind: "" };
  const [, before, shown, behind] = /^(\s*)(.*?)(\s*)$/s.exec(text);
  if (shown !== "") return { before, shown, kind: "", behind };
  return { before: "", shown: text.includes("\n") ? "⏎" : "␣", kind: "blank", behind: text };
}

/** Whether a probability is outside a bound, by more than the rounding of a float32. */
export function isOutside(p, constraint, probe) {
  const { lower, upper, space } = bounds(constraint, probe);
  if (space !== "probability") return false;
  const slack = 1e-6;
  return (upper !== null && p > upper + slack * upper) || (lower !== null && p < lower - slack * (1 - lower));
}
