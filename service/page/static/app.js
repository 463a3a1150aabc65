// The page: a form, two panes, findings, and one run at a time between them.

import { hasKey, Refusal, Unreachable, useKey } from "./api.js";
import { CodePanel, copy } from "./code.js";
import { reads } from "./concept.js";
import { Connection } from "./connection.js";
import { byId, h, oncePerFrame } from "./dom.js";
import { examplesFor } from "./examples.js";
import { clearFaults, showFault } from "./faults.js";
import { Findings } from "./findings.js";
import { Form } from "./form.js";
import { askKey } from "./key.js";
import { drawLegend } from "./legend.js";
import { Pane } from "./pane.js";
import { ARMS, drawSeed } from "./request.js";
import { Run } from "./run.js";
import { EMPTY, fromFragment, toFragment } from "./setup.js";
import { Tip } from "./tip.js";
import { wireTheme } from "./dark.js";
import { ending } from "./words.js";

const HINTS = { unsteered: "What the model writes by itself.", steered: "What it writes with its hidden states held." };

/** Milliseconds between two drawings of the charts while texts grow. */
const CALM = 100;

let offer = { model: null, probes: [], policies: [], metrics: [] };
let run = null;
let colour = 0; // which of the run's concepts
let drawn = 0; // when the charts were drawn last

const form = new Form({ changed: drawCode });
const code = new CodePanel();
const tip = new Tip(byId("tip"));
const findings = new Findings(byId("findings"), { over: point });
const panes = Object.fromEntries(
  ARMS.map((arm) => [
    arm,
    new Pane(document.querySelector(`[data-arm=${arm}]`), {
      open: (of, token, anchor) => {
        tip.open(anchor, { run, arm: of, token, view: view(), probes: offer.probes });
        point(token.index);
      },
      close: () => {
        tip.close();
        point(null);
      },
      next: (of) => goOn(of),
    }),
  ]),
);
const connection = new Connection({ show: showConnection, offered, askKey });
const redraw = oncePerFrame(() => draw());
const resized = oncePerFrame(() => draw({ all: true }));

async function start() {
  clearFaults();
  notice(null);
  tip.close();
  run?.stop();
  const setup = structuredClone(form.setup);
  setup.seed ??= drawSeed();
  setup.constraints = setup.constraints.map((held) => ({ ...held, probe: probeOf(held)?.id ?? held.probe }));
  const mine = new Run(setup, { model: offer.model, changed: redraw, waiting: waitFor });
  run = mine;
  colour = Math.min(colour, Math.max(0, setup.constraints.length - 1));
  begin(setup);
  try {
    await mine.go();
  } catch (error) {
    if (run !== mine) return;
    refuse(error);
    if (error.name !== "AbortError") {
      notRun();
      return;
    }
  }
  if (run !== mine) return;
  busy(false);
  draw({ all: true });
  byId("said").textContent = ending(mine, offer.probes);
}

function begin(setup) {
  busy(true);
  byId("said").textContent = "Running";
  findings.clear();
  const prompt = setup.mode === "prompt" ? setup.prompt : "";
  const nothing = "Choose a concept on the left, and its bound is held here.";
  panes.unsteered.clear({ prompt });
  panes.steered.clear({ prompt: run.arms.steered ? prompt : "", hint: run.arms.steered ? "" : nothing });
  drawView();
  drawCode();
  if (byId("results").getBoundingClientRect().top > 0.8 * window.innerHeight) byId("results").scrollIntoView();
}

/** After a run that never began: no text, no chart, and no verdict on what did not happen. */
function notRun() {
  run.refused = true;
  busy(false);
  findings.clear();
  byId("view").hidden = true;
  byId("said").textContent = "Not run.";
  for (const pane of Object.values(panes)) pane.clear({ hint: "Not run." });
  drawCode();
}

function draw({ all = false } = {}) {
  if (!run || run.refused) return;
  for (const [name, arm] of Object.entries(run.arms))
    panes[name].draw(arm, view(), { all, chat: run.setup.mode === "chat" });
  if (all || performance.now() - drawn > CALM) {
    findings.draw(run, offer.probes);
    drawn = performance.now();
  }
}

function refuse(error) {
  if (error.name === "AbortError") notice(null);
  else if (error instanceof Unreachable) {
    notice("The server cannot be reached. Is it still running? The form and the text so far are kept.", {
      retry: true,
    });
    connection.watch();
  } else if (error instanceof Refusal && error.status === 401) {
    notice("This server asks for a key.", { retry: true });
    askKey().then((given) => given && start());
  } else if (error instanceof Refusal && showFault(error)) notice("Not run: see the field that is marked.");
  else notice(error.message, { retry: true });
}

function waitFor(reason, seconds) {
  notice(
    reason === "loading"
      ? "The model is loading; this will run as soon as it is ready."
      : `The server's queue is full; trying again in ${seconds} s.`,
  );
}

/** The probe a constraint names, by id or by name for the highest version. */
function probeOf({ probe }) {
  const named = offer.probes.filter(({ name }) => name === probe).sort((one, other) => other.version - one.version);
  return offer.probes.find(({ id }) => id === probe) ?? named[0];
}

function view() {
  const constraint = run?.setup.constraints[colour];
  const probe = constraint && probeOf(constraint);
  return { constraint, probe, after: document.querySelector("[name=stage]:checked").value === "after" };
}

function drawView() {
  const { constraints } = run.setup;
  byId("view").hidden = constraints.length === 0;
  byId("view-probe").hidden = constraints.length < 2;
  byId("view-probe").replaceChildren(
    h("legend", {}, "Colour by"),
    ...constraints.map(({ probe }, index) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "colour",
          value: index,
          checked: index === colour,
          onchange: () => recolour(index),
        }),
        h("span", {}, probe),
      ),
    ),
  );
  drawLegend(byId("legend"), reads(view().probe));
}

function recolour(index = colour) {
  colour = index;
  drawLegend(byId("legend"), reads(view().probe));
  draw({ all: true });
}

function point(index) {
  for (const pane of Object.values(panes)) pane.mark(index);
  findings.point(index);
}

function drawCode() {
  code.draw({ run, setup: form.setup, model: offer.model });
}

function goOn(arm) {
  form.goOn(arm.text.trim());
  drawCode();
}

function busy(is) {
  byId("run").hidden = is;
  byId("stop").hidden = !is;
  if (is && document.activeElement === byId("run")) byId("stop").focus();
  if (!is && document.activeElement === document.body) byId("run").focus({ preventScroll: true });
}

function stop() {
  run?.stop();
  notice(null);
}

function notice(words, { retry = false } = {}) {
  byId("notice").hidden = words === null;
  byId("notice").replaceChildren(
    words ?? "",
    ...(retry ? [h("button", { type: "button", onclick: start }, "Run again")] : []),
  );
}

function showConnection(state, words) {
  byId("connection").dataset.state = state;
  byId("connection").textContent = words;
  byId("key").hidden = !hasKey() && state !== "locked";
}

function offered(found) {
  offer = found;
  form.offered(found);
  const [first] = examplesFor(found.probes);
  if (first && form.untouched) form.put({ ...EMPTY, ...first.setup });
  drawCode();
}

async function share() {
  const fragment = toFragment(run && sameAsk(run.setup, form.setup) ? run.setup : form.setup);
  history.replaceState(null, "", fragment);
  await copy(byId("share"), location.href).catch(() => notice("The link is in the address bar."));
}

const sameAsk = (done, now) =>
  JSON.stringify({ ...done, seed: null }) === JSON.stringify({ ...now, seed: null }) &&
  (now.seed === null || now.seed === done.seed);

function fromLink() {
  const setup = fromFragment(location.hash);
  if (setup) {
    form.put(setup);
    drawCode();
  } else if (location.hash.startsWith("#run=")) notice("This link does not hold a run that can be read.");
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (byId("stop").hidden) start();
});
byId("stop").addEventListener("click", stop);
byId("share").addEventListener("click", share);
byId("key").addEventListener("click", () =>
  askKey().then((given) => {
    if (!given) useKey("");
    connection.watch();
  }),
);
for (const radio of document.querySelectorAll("[name=stage]")) radio.addEventListener("change", () => recolour());
window.addEventListener("hashchange", fromLink);
window.addEventListener("resize", resized);
window.addEventListener(
  "scroll",
  oncePerFrame(() => tip.follow()),
  { passive: true },
);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (byId("stop").hidden) start();
  } else if (event.key === "Escape" && !byId("key-dialog").open) {
    if (tip.isOpen) tip.close();
    else stop();
  }
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".token, .tip")) tip.close();
});

wireTheme(byId("theme"));
for (const [arm, pane] of Object.entries(panes)) pane.clear({ hint: HINTS[arm] });
form.put(form.setup);
fromLink();
connection.watch();
