// One evaluation in the list. It is drawn once and then brought up to date in place, so that focus stays where it is.

import { documentAddress, hasKey } from "./api.js";
import { h } from "./dom.js";

export const LIST = "v1/steering/evaluations";

const SURE = 4000; // milliseconds in which a second press means it

const WORDS = { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" };

export class Job {
  /** `cancel(id)` and `remove(id)` are promises; `failed(error)` is told what they end with. */
  constructor({ id }, { cancel, remove, failed }) {
    this.id = id;
    this.failed = failed;
    this.name = h("span");
    this.state = h("span", { class: "state" });
    this.bar = h("progress", { max: 1 });
    this.how = h("p", { class: "how" });
    this.report = h("a", { class: "open", target: "_blank", rel: "noopener", onclick: (event) => this.#open(event) }, "Open report");
    this.json = h("a", { target: "_blank", rel: "noopener", class: "small", onclick: (event) => this.#open(event) }, "JSON");
    this.cancel = twice("Cancel", "Cancel it?", () => cancel(id), failed);
    this.remove = twice("Remove", "Remove it?", () => remove(id), failed);
    this.does = h("div", { class: "does" }, this.report, this.json, this.cancel, this.remove);
    this.element = h("li", { class: "job", id }, h("h3", {}, this.name, this.state), this.bar, this.how, this.does);
  }

  /** Show `job`; the sentence for those who only listen when its state has changed, else nothing. */
  show(job) {
    const before = this.element.dataset.state;
    const over = !["queued", "running"].includes(job.state);
    this.element.dataset.state = job.state;
    this.name.textContent = job.name;
    this.state.textContent = WORDS[job.state];
    this.bar.hidden = job.state !== "running";
    this.#progress(job);
    this.how.textContent = how(job);
    for (const [link, format] of [[this.report, "html"], [this.json, "json"]]) {
      link.hidden = job.report === null;
      link.href = `${LIST}/${job.id}/report?format=${format}`;
    }
    for (const [element, words] of [[this.report, "Open report"], [this.json, "JSON"]]) {
      element.setAttribute("aria-label", `${words} of ${job.name}`);
    }
    if (over && document.activeElement === this.cancel) this.remove.hidden = false, this.remove.focus();
    this.cancel.hidden = over;
    this.remove.hidden = !over;
    return before && before !== job.state ? `${job.name} is ${WORDS[job.state]}` : "";
  }

  #progress({ name, progress }) {
    this.bar.setAttribute("aria-label", `Progress of ${name}`);
    if (progress.total) this.bar.value = progress.done / progress.total;
    else this.bar.removeAttribute("value");
  }

  async #open(event) {
    if (!hasKey()) return;
    event.preventDefault();
    const path = event.currentTarget.getAttribute("href");
    const tab = window.open("", "_blank");
    try {
      const address = await documentAddress(path);
      if (tab) tab.location = address;
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      tab?.close();
      this.failed(error);
    }
  }
}

/** A button that does what it says when it is pressed twice. */
function twice(word, question, act, failed) {
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    button.textContent = word;
    button.classList.remove("stop");
  };
  const press = async () => {
    if (!timer) {
      button.textContent = question;
      button.classList.add("stop");
      timer = setTimeout(calm, SURE);
      return;
    }
    calm();
    try {
      await act();
    } catch (error) {
      failed(error);
    }
  };
  const button = h("button", { type: "button", onclick: press, onblur: calm }, word);
  return button;
}

function how({ state, n, progress, error, created, started, ended }) {
  const asked = n === null ? "" : `, ${n} prompts of each set`;
  if (state === "queued") return `since ${clock(created)}${asked}`;
  if (state === "failed") return error?.message ?? "no reason was given";
  if (state === "cancelled") return `at ${clock(ended)}${asked}`;
  if (state === "done") return `at ${clock(ended)} after ${long(ended - started)}${asked}`;
  if (!progress.stage) return `getting ready${asked}`;
  const left = progress.eta_seconds ? `, about ${long(progress.eta_seconds)} left of this stage` : "";
  return `${progress.stage}: ${progress.done} of ${progress.total}${left}${asked}`;
}

function clock(seconds) {
  const at = new Date(seconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

function long(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
