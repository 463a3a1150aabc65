// A run as code that does exactly the same: both requests, in curl and with the openai client. The key is a variable.

import { steeringField } from "./request.js";

/** The requests of a run as shell commands. */
export function curl(bodies, { address }) {
  const commands = Object.entries(bodies)
    .filter(([, body]) => body)
    .map(([arm, body]) => `# ${arm}\n${command(address, { method: "POST", body })}`);
  return commands.join("\n\n");
}

/** One request as a shell command, with a body of JSON, or of the bytes of a file of this kind, or with none. */
export function command(address, { method, body, file, kind = "application/json" }) {
  const data = body === undefined ? file && `--data-binary @${file}` : `-d ${quoted(JSON.stringify(body, null, 2))}`;
  const implied = data ? "POST" : "GET";
  return [
    `curl -sN ${method === implied ? "" : `-X ${method} `}${quoted(address)}`,
    data && `  -H 'content-type: ${kind}'`,
    `  -H "authorization: Bearer $TILLER_API_KEY"`,
    data && `  ${data}`,
  ].filter(Boolean).join(" \\\n");
}

/** The requests of a run through the openai package. */
export function openai(bodies, setup, { base, model }) {
  const chat = setup.mode === "chat";
  const { steering: _, ...plain } = bodies.unsteered;
  const steered = setup.constraints.length > 0;
  const fields = Object.entries({ model, ...plain }).map(([name, value]) => `${name}=${python(value, 2)},`);
  const { mode: __, ...steering } = steeringField(setup, "");
  const request = [
    `stream = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...[...fields, ...(steered ? [`extra_body={"steering": {"mode": mode, **steering}},`] : [])].map(
      (line) => `    ${line}`,
    ),
    ")",
    "for chunk in stream:",
    `    print(chunk.choices[0].${chat ? 'delta.content or ""' : "text"}, end="", flush=True)`,
    "print()",
  ];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=os.environ.get("TILLER_API_KEY", "none"))`,
    ...(steered
      ? [
          `steering = ${python(steering, 0)}`,
          "",
          'for mode in ("monitor", "enforce"):  # unsteered, every token read; then steered',
          ...request.map((line) => `    ${line}`),
        ]
      : ["", ...request]),
    "",
  ].join("\n");
}

/** A value as Python writes it, in one line where it is short. */
export function python(value, depth) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const short = Array.isArray(value)
    ? `[${value.map((item) => python(item, depth)).join(", ")}]`
    : `{${Object.entries(value)
        .map(([key, item]) => `${JSON.stringify(key)}: ${python(item, depth)}`)
        .join(", ")}}`;
  if (short.length + 4 * depth <= 88) return short;
  const inner = "    ".repeat(depth + 1);
  const lines = Array.isArray(value)
    ? value.map((item) => `${inner}${python(item, depth + 1)},\n`)
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${python(item, depth + 1)},\n`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return `${open}\n${lines.join("")}${"    ".repeat(depth)}${close}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
