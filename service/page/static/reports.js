// The reports page: the evaluations of this server, asked again while it is looked at, and a form that starts one.

import { del, get, hasKey, post, Refusal, Unreachable } from "./api.js";
import { wireTheme } from "./dark.js";
import { byId, h } from "./dom.js";
import { Job, LIST } from "./job.js";
import { askKey } from "./key.js";

const BUSY = 1000;
const IDLE = 5000; // milliseconds between two looks

const shown = new Map();
let abouts = new Map();
let timer = 0;
let asking = false;
let declined = false; // a reader who gave no key is not asked for it every few seconds

/** Ask for the list and draw it; then again, sooner while something runs. */
async function look() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let pause = IDLE;
  try {
    const { data } = await get(LIST);
    connected("ready", "Connected");
    if (!abouts.size) await offer();
    draw(data);
    if (data.some(({ state }) => state === "queued" || state === "running")) pause = BUSY;
  } catch (error) {
    pause = await trouble(error) ? 0 : IDLE;
  } finally {
    asking = false;
    timer = setTimeout(look, pause);
  }
}

/** Say why the list could not be had; true when it is worth asking again at once. */
async function trouble(error) {
  if (error instanceof Refusal && error.status === 401) {
    connected("locked", "A key is needed");
    byId("key").hidden = false;
    if (declined) return false;
    declined = !(await askKey());
    return !declined;
  }
  connected(error instanceof Unreachable ? "offline" : "failed", error.message);
  return false;
}

async function offer() {
  const { data } = await get(`${LIST}/specs`);
  abouts = new Map(data.map((spec) => [spec.name, spec]));
  const first = data.find(({ runnable, name }) => runnable && name === "quick") ?? data.find(({ runnable }) => runnable);
  byId("spec").replaceChildren(
    ...data.map(({ name, runnable }) =>
      h("option", { value: name, disabled: !runnable, selected: name === first?.name }, runnable ? name : `${name} (needs data files)`)),
  );
  about();
}

function about() {
  byId("about").textContent = abouts.get(byId("spec").value)?.about ?? "";
}

function draw(jobs) {
  const list = byId("jobs");
  const ids = new Set(jobs.map(({ id }) => id));
  for (const [id, job] of shown) {
    if (ids.has(id)) continue;
    if (job.element.contains(document.activeElement)) byId("jobs-title").focus();
    job.element.remove();
    shown.delete(id);
  }
  const said = [];
  jobs.forEach((job, at) => {
    if (!shown.has(job.id)) {
      const made = new Job(job, { cancel, remove, failed: notice });
      shown.set(job.id, made);
      list.insertBefore(made.element, list.children[at] ?? null);
    }
    said.push(shown.get(job.id).show(job));
  });
  byId("none").hidden = jobs.length > 0;
  const news = said.filter(Boolean).join(". ");
  if (news) byId("said").textContent = news;
}

async function cancel(id) {
  await post(`${LIST}/${id}/cancel`);
  await look();
}

async function remove(id) {
  await del(`${LIST}/${id}`);
  await look();
}

async function start(event) {
  event.preventDefault();
  const button = byId("start");
  if (button.getAttribute("aria-disabled") === "true") return;
  calm();
  const n = byId("n");
  if (n.validity.badInput || (n.value !== "" && !n.validity.valid)) return fault("n", "prompts of each set: a whole number from 1, or empty for all");
  button.setAttribute("aria-disabled", "true");
  button.textContent = "Checking…";
  byId("said").textContent = "The spec is being checked, which takes some seconds";
  try {
    const job = await post(LIST, { spec: byId("spec").value, n: n.value === "" ? null : Number(n.value) });
    byId("said").textContent = `${job.name} was accepted`;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) await askKey();
    else if (error instanceof Refusal && error.param) fault(error.param === "n" ? "n" : "spec", error.message);
    else notice(error);
  } finally {
    button.removeAttribute("aria-disabled");
    button.textContent = "Start";
  }
  await look();
}

function fault(name, words) {
  byId(name).setAttribute("aria-invalid", "true");
  byId(`${name}-fault`).textContent = words;
  byId(`${name}-fault`).hidden = false;
  byId(name).focus();
}

function notice(error) {
  byId("notice").textContent = error.message;
  byId("notice").hidden = false;
}

function calm() {
  byId("notice").hidden = true;
  for (const name of ["spec", "n"]) {
    byId(name).removeAttribute("aria-invalid");
    byId(`${name}-fault`).hidden = true;
  }
}

function connected(state, words) {
  const place = byId("connection");
  place.dataset.state = state;
  if (place.textContent !== words) place.textContent = words;
  if (hasKey()) byId("key").hidden = false;
}

wireTheme(byId("theme"));
byId("ask").addEventListener("submit", start);
byId("spec").addEventListener("change", about);
byId("key").addEventListener("click", async () => await askKey() && look());
document.addEventListener("visibilitychange", look);
look();
