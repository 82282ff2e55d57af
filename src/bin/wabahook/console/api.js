// Decides how the console asks the host: with the key of this tab, never with a cookie, so that no
// other site can ask in its name.

const KEPT = "wabahook-key";

export const key = {
  value: () => sessionStorage.getItem(KEPT),
  keep: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** What the host refused, with the field at fault where there is one. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the host answered ${status}`);
    this.status = status;
    this.field = error?.field;
  }
}

/** Asks the host; the answer is JSON. */
export async function ask(method, path, body) {
  const headers = { authorization: `Bearer ${key.value() ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused(0, { message: "the host does not answer; is it running?" });
  }
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* an answer without a JSON body */ }
  if (!response.ok) {
    if (response.status === 401) document.dispatchEvent(new Event("signed-out"));
    throw new Refused(response.status, answer?.error);
  }
  return answer;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body ?? {});
