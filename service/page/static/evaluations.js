// The routes of evaluations, as the page uses them. The key is the one this tab keeps, as on the playground.

export const LIST = "v1/steering/evaluations";

/** A refusal: status, the field it means, and words. */
export class Refused extends Error {
  constructor(status, { message, param = null, code = null }) {
    super(message);
    Object.assign(this, { status, param, code });
  }
}

/** The server could not be reached at all. */
export class Away extends Error {}

export function key() {
  try {
    return sessionStorage.getItem("tiller.key") ?? "";
  } catch {
    return "";
  }
}

export async function call(method, path, body) {
  const response = await fetched(method, path, body);
  return response.status === 204 ? null : response.json();
}

/** A report as a document of this page, for a server with keys: a link could not show the key. */
export async function reportAddress(path) {
  const response = await fetched("GET", path);
  return URL.createObjectURL(await response.blob());
}

async function fetched(method, path, body) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key()) headers.authorization = `Bearer ${key()}`;
  const options = { method, headers, credentials: "omit", cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch {
    throw new Away("The server does not answer");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Refused(response.status, said?.error ?? { message: `the server answered ${response.status}` });
}
