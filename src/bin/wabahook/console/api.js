// Sends requests to the host with the API key, never with a cookie, so that no other site can send requests in its
// name. The key is kept in the memory of the page only, and forgotten when the page is not used for a while.

let kept = null;
let usedAt = 0;
let idleMs = 15 * 60_000;

export const key = {
  value: () => kept,
  keep(text) { kept = text; usedAt = Date.now(); },
  forget() { kept = null; },
  /** Somebody uses the page. */
  used() { usedAt = Date.now(); },
  isIdle: () => kept !== null && Date.now() - usedAt > idleMs,
  /** How long the page may be left alone. */
  idleAfter(ms) { idleMs = ms; },
};

/** The account that the operator looks at; `null` for all of them, and with the key of an account. */
export const scope = { account: null };

/** An error of the host, with the field at fault where there is one. */
export class HostError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the host answered ${status}`);
    this.status = status;
    this.code = error?.code;
    this.field = error?.field;
  }
}

/** The parameters that are set, as a query. */
export const queryOf = (pairs) => new URLSearchParams(Object.entries(pairs).filter(([, value]) => value)).toString();

/** A path with the account that is looked at. */
function scoped(path) {
  if (!scope.account) return path;
  return `${path}${path.includes("?") ? "&" : "?"}account=${encodeURIComponent(scope.account)}`;
}

async function answered(method, path, body, signal) {
  const headers = { authorization: `Bearer ${key.value() ?? ""}` };
  const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error", signal };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  try {
    return await fetch(scoped(path), options);
  } catch {
    throw new HostError(0, { message: "The host does not answer; is it running?" });
  }
}

/** Sends a request; the response is JSON. */
export async function request(method, path, body) {
  const response = await answered(method, path, body);
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* a response without a JSON body */ }
  if (!response.ok) {
    if (response.status === 401) document.dispatchEvent(new CustomEvent("signed-out", { detail: "The host does not know this key any more." }));
    throw new HostError(response.status, answer?.error);
  }
  return answer;
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body ?? {});

/** Calls `tell` for each notice of the host until the signal aborts or the stream ends. */
export async function notices(signal, tell) {
  const response = await answered("GET", "/notices", undefined, signal);
  if (!response.ok) throw new HostError(response.status, null);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (lines.some((line) => line.trim())) tell();
  }
}
