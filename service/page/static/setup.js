// What a run is made of: a plain object that fits in a link. Whatever comes out of a link is checked here, field by
// field; the server checks the values.

/** Fields of a constraint that the page passes on; those without a control of their own come from policies. */
const FIELDS = [
  "probe",
  "controller",
  "shadow",
  "lower",
  "upper",
  "space",
  "layers",
  "prompt",
  "generation",
  "strength",
  "max_dose",
  "metric",
  "coefficient",
  "gains",
  "source",
  "piecewise",
];
const NUMBERS = ["lower", "upper", "strength", "max_dose", "coefficient"];
const LISTS = ["layers", "generation", "gains"];
const ROLES = ["system", "user", "assistant"];
const MOST = { text: 100_000, messages: 64, constraints: 16 };

export const EMPTY = Object.freeze({
  mode: "prompt",
  prompt: "",
  messages: [{ role: "user", content: "" }],
  constraints: [],
  on_infeasible: null,
  temperature: 1,
  top_p: 0.9,
  max_tokens: 48,
  seed: null,
});

/** `raw` with every field of a setup, each of its right type; what is unknown or ill-typed is as in EMPTY. */
export function checked(raw) {
  const given = raw !== null && typeof raw === "object" ? raw : {};
  const number = (name) => (Number.isFinite(given[name]) ? given[name] : EMPTY[name]);
  const messages = list(given.messages, MOST.messages).filter(
    (turn) => ROLES.includes(turn?.role) && typeof turn.content === "string",
  );
  return {
    mode: given.mode === "chat" ? "chat" : "prompt",
    prompt: text(given.prompt),
    messages: messages.length
      ? messages.map(({ role, content }) => ({ role, content: text(content) }))
      : structuredClone(EMPTY.messages),
    constraints: list(given.constraints, MOST.constraints)
      .filter((held) => typeof held?.probe === "string")
      .map((held) =>
        Object.fromEntries(FIELDS.filter((name) => isOf(name, held[name])).map((name) => [name, held[name]])),
      ),
    on_infeasible:
      given.on_infeasible === "least_squares" || given.on_infeasible === "error" ? given.on_infeasible : null,
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: Number.isSafeInteger(given.seed) && given.seed >= 0 ? given.seed : null,
  };
}

/** A setup as the fragment of a link. The fragment stays in the browser: it is never sent. */
export function toFragment(setup) {
  const bytes = new TextEncoder().encode(JSON.stringify(setup));
  const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return `#run=${btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

/** The setup of a fragment; null when it holds none, or none that can be read. */
export function fromFragment(fragment) {
  const [, packed] = /^#run=([\w-]+)$/.exec(fragment) ?? [];
  if (!packed) return null;
  try {
    const letters = atob(packed.replaceAll("-", "+").replaceAll("_", "/"));
    return checked(JSON.parse(new TextDecoder().decode(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)))));
  } catch {
    return null;
  }
}

/** Whether a value is of the kind a field of a constraint may have. */
function isOf(name, value) {
  if (NUMBERS.includes(name)) return Number.isFinite(value);
  if (name === "piecewise") return typeof value === "boolean";
  if (typeof value === "string") return name !== "gains";
  return LISTS.includes(name) && Array.isArray(value) && value.every((item) => item === null || Number.isFinite(item));
}

const text = (value) => (typeof value === "string" ? value.slice(0, MOST.text) : "");
const list = (value, most) => (Array.isArray(value) ? value.slice(0, most) : []);
