// The fields of a JSON schema as a list: name, kind, default, meaning; those of objects within open below theirs.

import { h } from "./dom.js";

const DEEPEST = 5;

/** `schema` may refer to others of `document`. */
export function fields(schema, document, depth = 0) {
  const { properties = {}, required = [] } = resolved(schema, document);
  return h("dl", { class: "fields" }, ...Object.entries(properties).flatMap(([name, field]) => [
    h("dt", {}, h("code", {}, name), h("span", { class: "small" }, ` ${kind(field, document)}${needed(name, field, required)}`)),
    h("dd", {}, meaning(field), ...within(field, document, depth)),
  ]));
}

function within(field, document, depth) {
  const inner = objects(field, document);
  if (depth === DEEPEST) return [];
  return inner.map((schema) => {
    const list = h("details", {}, h("summary", { class: "small" }, `Fields of ${schema.title ?? "it"}`));
    list.addEventListener("toggle", () => list.append(fields(schema, document, depth + 1)), { once: true }); // when wanted
    return list;
  });
}

/** The objects a field may be, or hold in a list. */
function objects(field, document) {
  const schema = resolved(field, document);
  if (schema.properties) return [schema];
  const inside = [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.items ? [schema.items] : [])];
  return inside.flatMap((one) => objects(one, document));
}

function kind(field, document) {
  const schema = resolved(field, document);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return [...new Set(choices.map((one) => kind(one, document)))].join(" | ");
  if (schema.type === "array") return `[${schema.items ? kind(schema.items, document) : "any"}]${limits(schema)}`;
  return `${schema.type ?? "any"}${limits(schema)}`;
}

function limits(schema) {
  const told = [
    [schema.minimum, "≥ "], [schema.exclusiveMinimum, "> "], [schema.maximum, "≤ "], [schema.exclusiveMaximum, "< "],
    [schema.minItems, "at least "], [schema.maxItems, "at most "], [schema.maxLength, "length ≤ "],
  ].filter(([value]) => value !== undefined).map(([value, sign]) => `${sign}${value}`);
  return told.length > 0 ? ` (${told.join(", ")})` : "";
}

function needed(name, field, required) {
  if (required.includes(name)) return ", needed";
  return field.default === undefined || field.default === null ? "" : `, ${JSON.stringify(field.default)} unless given`;
}

const meaning = ({ description = "" }) => description.replaceAll("`", "").replaceAll("\n", " ");

function resolved(schema, document) {
  if (!schema.$ref) return schema;
  const found = schema.$ref.split("/").slice(1).reduce((place, key) => place?.[key], document) ?? {};
  return { title: schema.$ref.split("/").at(-1), ...found };
}
