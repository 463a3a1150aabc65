// One route: what it does, what it takes, how it is asked on a command line, and what it answers.

import { address } from "./api.js";
import { h } from "./dom.js";
import { fields } from "./fields.js";
import { command } from "./snippet.js";

const BINARY = "application/octet-stream";

/** `about` is the operation in the server's `document`. */
export function operation({ method, path, about, document }) {
  const { requestBody, responses, parameters = [] } = about;
  const description = plain(about.description);
  const id = `${method}${path}`.replaceAll(/[^a-z0-9]+/gi, "-");
  return h(
    "details",
    { class: "route", id },
    h("summary", {}, h("code", { class: "method", "data-method": method }, method.toUpperCase()), h("code", { class: "path" }, path),
      h("span", { class: "small" }, firstLine(description))),
    description !== firstLine(description) && h("p", { class: "about" }, description),
    parameters.length > 0 && h("div", {}, h("h3", {}, "In the address"), fields(asSchema(parameters), document)),
    ...Object.values(requestBody?.content ?? {}).filter(({ schema }) => schema?.$ref).map(({ schema }) =>
      h("details", {}, h("summary", {}, "Fields of the body"), fields(schema, document))),
    h("h3", {}, "Ask"),
    ...requests(about).map(({ summary, body, binary }) =>
      h("figure", {}, summary && h("figcaption", { class: "small" }, summary), pasted(shell(method, path, about, { body, binary })))),
    h("h3", {}, "Answers"),
    ...Object.entries(responses).sort(goodFirst).map(([status, reply]) => answer(status, reply)),
  );
}

/** The bodies that are shown; one without a body where none is taken. */
function requests({ requestBody }) {
  const [[kind, content] = []] = Object.entries(requestBody?.content ?? {});
  if (!kind) return [{}];
  if (kind === BINARY) return [{ binary: kind }];
  return Object.values(content.examples ?? {}).map(({ summary, value }) => ({ summary, body: value }));
}

function shell(method, path, { parameters = [] }, { body, binary }) {
  const examples = Object.fromEntries(parameters.map(({ name, schema }) => [name, schema.examples?.[0] ?? name]));
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name) => encodeURIComponent(examples[name]).replaceAll("%40", "@"));
  const url = address(filled.replace(/^\//, ""));
  return command(url, { method: method.toUpperCase(), body, ...(binary && { file: "probe.safetensors", kind: binary }) });
}

function answer(status, { description, content = {} }) {
  const shown = Object.entries(content).filter(([, { example }]) => example !== undefined);
  const line = [h("code", {}, status === "default" ? "else" : status), ` ${plain(description)}`];
  if (shown.length === 0) return h("p", { class: "answer" }, ...line);
  return h("details", { class: "answer" }, h("summary", {}, ...line), ...shown.map(([kind, { example }]) =>
    h("figure", {}, h("figcaption", { class: "small" }, kind), pasted(typeof example === "string" ? example : JSON.stringify(example, null, 2)))));
}

/** Text with a button that copies it. */
function pasted(text) {
  const button = h("button", { type: "button", class: "quiet copy", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand"; // a browser gives the clipboard to localhost and HTTPS alone
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }
  return h("div", { class: "pasted" }, h("pre", { tabindex: "0" }, text), button);
}

function asSchema(parameters) {
  return {
    properties: Object.fromEntries(parameters.map(({ name, schema, description }) => [name, { ...schema, description: description ?? schema.description }])),
    required: parameters.filter(({ required }) => required).map(({ name }) => name),
  };
}

/** A docstring as paragraphs: its lines are joined. */
export const plain = (text = "") => text.trim().replaceAll("`", "").replace(/(?<!\n)\n(?!\n)/g, " ");
const firstLine = (text = "") => plain(text).split(/(?<=\.)\s/)[0];
const good = (status) => (status.startsWith("2") ? 0 : status === "default" ? 2 : 1);
const goodFirst = ([one], [other]) => good(one) - good(other) || one.localeCompare(other);
