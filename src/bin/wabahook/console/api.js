// Sends requests to the host with the API key of this tab, never with a cookie, so that no other site can
// send requests in its name.

const KEPT = "wabahook-key";

export const key = {
  value: () => sessionStorage.getItem(KEPT),
  keep: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** An error of the host, with the field at fault where there is one. */
export class HostError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the host answered ${status}`);
    this.status = status;
    this.field = error?.field;
  }
}

/** Sends a request; the response is JSON. */
export async function request(method, path, body) {
  const headers = { authorization: `Bearer ${key.value() ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new HostError(0, { message: "the host does not answer; is it running?" });
  }
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* a response without a JSON body */ }
  if (!response.ok) {
    if (response.status === 401) document.dispatchEvent(new Event("signed-out"));
    throw new HostError(response.status, answer?.error);
  }
  return answer;
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body ?? {});
