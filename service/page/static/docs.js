// The page of the API: reads the server's own document and lists its routes, by subject, each with lines to be pasted.

import { get, Refusal } from "./api.js";
import { wireTheme } from "./dark.js";
import { byId, h } from "./dom.js";
import { askKey } from "./key.js";
import { operation, plain } from "./operation.js";

/** Of tags that do not look like themselves with a capital letter. */
const TITLES = { openai: "OpenAI" };

async function draw() {
  byId("notice").hidden = true;
  try {
    const document = await get("openapi.json");
    byId("about").textContent = plain(document.info.description);
    byId("routes").replaceChildren(...subjects(document));
    connected("ready", `Version ${document.info.version}`);
    const wanted = location.hash && byId(location.hash.slice(1));
    if (wanted) {
      wanted.open = true;
      wanted.scrollIntoView();
    }
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) return locked();
    connected(error instanceof Refusal ? "failed" : "offline", error.message);
    byId("notice").textContent = error.message;
    byId("notice").hidden = false;
  }
}

async function locked() {
  connected("locked", "A key is needed");
  byId("key").hidden = false;
  if (await askKey()) await draw();
}

/** One section for each tag, in the document's order. */
function subjects(document) {
  const found = new Map();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const tag = about.tags?.[0] ?? "others";
      found.set(tag, [...(found.get(tag) ?? []), operation({ method, path, about, document })]);
    }
  }
  return [...found].map(([tag, routes]) =>
    h("section", { "aria-labelledby": `of-${tag}` }, h("h2", { id: `of-${tag}` }, TITLES[tag] ?? tag), ...routes));
}

function connected(state, words) {
  byId("connection").dataset.state = state;
  byId("connection").textContent = words;
}

wireTheme(byId("theme"));
byId("key").addEventListener("click", locked);
draw();
