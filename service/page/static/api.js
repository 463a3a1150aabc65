// The server, as the page sees it. Addresses are relative to the page, so that a proxy may put it below a path.
// A refusal is thrown with all that the server said; a key is sent once there is one, and kept for this tab alone.

import { events } from "./sse.js";

const KEY = "tiller.key";
let key = read();

/** What the server said no with: status, code, param (the field it means), message, and seconds to wait. */
export class Refusal extends Error {
  constructor(status, { message, code = "unknown", param = null }, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

/** The server could not be reached at all. */
export class Unreachable extends Error {}

/** The stream began and then broke: by an error inside it, or by its end without `[DONE]`. */
export class Broken extends Error {}

export const address = (path) => new URL(path, document.baseURI).href;

export const hasKey = () => key !== "";

/** Keep a key until the tab is closed; an empty one forgets it. */
export function useKey(value) {
  key = value.trim();
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // storage is blocked: the key lasts as long as the page
  }
}

export async function get(path, { signal } = {}) {
  return (await ask(path, { signal })).json();
}

/** Of a route that answers nothing. */
export async function del(path) {
  await ask(path, { method: "DELETE" });
}

/** The answer as a document of this page, for a server with keys: a link could not send the key. */
export async function documentAddress(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

export async function post(path, body, { signal } = {}) {
  return (await ask(path, { signal, method: "POST", body: JSON.stringify(body) })).json();
}

/** The chunks of a streamed answer, one by one, until `[DONE]`. */
export async function* stream(path, body, { signal } = {}) {
  const response = await ask(path, { signal, method: "POST", body: JSON.stringify(body) });
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    throw new Broken("this server answered in one piece, where a stream was asked for");
  }
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Broken(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Broken || error.name === "AbortError") throw error;
    throw new Broken("the connection was lost");
  }
  throw new Broken("the stream ended before the text did");
}

async function ask(path, { signal, method = "GET", body } = {}) {
  const headers = { accept: "application/json, text/event-stream" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(address(path), { method, headers, body, signal, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the server cannot be reached");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const wait = Number(response.headers.get("retry-after"));
  const said = await response.json().catch(() => null);
  const detail = said?.error ?? { message: `the server answered ${response.status} ${response.statusText}`.trim() };
  return new Refusal(response.status, detail, Number.isFinite(wait) && wait > 0 ? wait : null);
}

function read() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}
