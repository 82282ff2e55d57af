// The form of a webhook. Events and numbers are chosen, not typed. A test compares the names of its inputs
// with the members of a subscription.

import { post, request } from "./api.js";
import { dialog, element } from "./dom.js";

function field(label, input, hint) {
  const id = `field-${Math.random().toString(36).slice(2)}`;
  input.id = id;
  return [element("label", { for: id }, label), input, hint ? element("p", { className: "hint" }, hint) : null];
}

const check = (name, text, checked, value) => element("label", { className: "check" },
  element("input", { type: "checkbox", name, value, checked }), text);

/** A choice of all or some, with the current choice. */
function choice(title, name, all, chosen, entries, hint) {
  const everything = element("input", { type: "checkbox", name: `${name}-all`, checked: chosen === "*" });
  const some = element("div", { className: "columns", hidden: chosen === "*" },
    entries.map(([value, text]) => check(name, text, chosen !== "*" && chosen.includes(value), value)));
  everything.addEventListener("change", () => { some.hidden = everything.checked; });
  return element("fieldset", { "data-set": name }, element("legend", {}, title),
    element("label", { className: "check" }, everything, all), some, hint ? element("p", { className: "hint" }, hint) : null);
}

function chosenOf(form, name) {
  if (form.elements[`${name}-all`].checked) return "*";
  return [...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);
}

function headersOf(text) {
  const headers = {};
  for (const line of text.split("\n").filter((one) => one.trim())) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`headers: "${line}" is not a line such as X-Tenant: acme`);
    headers[line.slice(0, colon).trim()] = line.slice(colon + 1).trim();
  }
  return headers;
}

function conditionOf(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`condition: not JSON: ${error.message}`);
  }
}

/** The name of a webhook that was given none: the host of its URL. */
function suggested(url) {
  try { return new URL(url).host; } catch { return url; }
}

/** The body of the request: all settings of a new webhook, or the changed ones. */
function bodyOf(form, known) {
  const { name, description, url, method, headers, secret, ordering, condition, payload } = form.elements;
  const body = {
    name: name.value.trim() || suggested(url.value.trim()), description: description.value.trim() || null, url: url.value.trim(), method: method.value, ordering: ordering.value,
    events: chosenOf(form, "events"), numbers: chosenOf(form, "numbers"),
  };
  if (body.events.length === 0) throw Object.assign(new Error("Choose at least one event, or all events."), { field: "events-all" });
  if (body.numbers.length === 0) throw Object.assign(new Error("Choose at least one number, or all numbers."), { field: "numbers-all" });
  if (condition.value.trim()) body.condition = conditionOf(condition.value);
  else if (known?.condition) body.condition = null;
  if (payload) body.payload = payload.value;
  const heads = form.elements["headers-change"]?.value ?? "replace";
  if (heads === "remove") body.headers = null;
  else if (heads === "replace" && headers.value.trim()) body.headers = headersOf(headers.value);
  if (!known && secret.value) body.secret = secret.value;
  if (!known) return body;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const kept = { ...known, headers: undefined };
  return Object.fromEntries(Object.entries(body).filter(([key, value]) => !same(value, kept[key])));
}

/** Saves a new webhook. Where its suggested name is taken, the next one is tried. */
async function create(body, isSuggested) {
  for (let number = 2; ; number += 1) {
    try {
      return await post("/subscriptions", number === 2 ? body : { ...body, name: `${body.name} ${number - 1}` });
    } catch (error) {
      if (!isSuggested || error.code !== "name_taken" || number > 20) throw error;
    }
  }
}

/** The headers: their values are secret, so they are kept, replaced or removed as a whole. */
function headerFields(known) {
  const text = element("textarea", { name: "headers", rows: 3, spellcheck: "false", placeholder: "X-Tenant: acme" });
  if (!known?.header_names?.length) return field("Headers", text, "One per line.");
  const choice = words("headers-change", [["keep", `keep ${known.header_names.join(", ")}`], ["replace", "replace them"], ["remove", "remove them"]], "keep");
  const lines = element("div", { hidden: true }, field("New headers", text, "One per line."));
  choice.addEventListener("change", () => { lines.hidden = choice.value !== "replace"; });
  return [field("Headers", choice), lines];
}

function words(name, values, chosen) {
  return element("select", { name }, values.map(([value, text]) =>
    element("option", { value, selected: value === chosen }, text)));
}

const METHODS = ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD"].map((method) => [method, method]);
const PAYLOADS = [["gateway", "the gateway's own body"], ["meta", "Meta's callback"]];
const ORDERINGS = [
  ["none", "none: a failing delivery delays no other"],
  ["per_key", "per key: the events of a contact in order"],
  ["strict", "strict: all events in order"],
];

/** Opens the form for a new webhook or for a change; calls `done` with the saved webhook. */
export function edit(account, known, done) {
  // What Meta sends comes first, then what has a label.
  const rank = (type) => 2 * Number(type.source === "publish") + Number(!type.label);
  const types = [...account.event_types].sort((one, other) => rank(one) - rank(other));
  const events = types.map(({ name, label, source }) =>
    [name, `${label ? `${label} (${name})` : name}${source === "publish" ? ", only if published" : ""}`]);
  const others = Array.isArray(known?.events) ? known.events.filter((name) => !events.some(([one]) => one === name)) : [];
  const numbers = account.wabas.flatMap((waba) => waba.numbers.map((number) => [number, `${number} (WABA ${waba.id})`]));
  const problem = element("p", { className: "problem", role: "alert" });
  const address = element("input", { name: "url", type: "url", required: true, value: known?.url ?? "", placeholder: "https://crm.example/hook", autofocus: true });
  const name = element("input", { name: "name", required: Boolean(known), maxlength: 128, value: known?.name ?? "" });
  address.addEventListener("input", () => { name.placeholder = known ? "" : suggested(address.value.trim()); });
  dialog(known ? `Edit ${known.name}` : "New webhook", (close) => {
    const form = element("form", { method: "dialog" },
      element("div", { className: "fields" },
        field("URL", address),
        choice("Events", "events", "All events", known?.events ?? [], [...events, ...others.map((name) => [name, name])],
          "Only if published: Meta sends none of these; your own system publishes them."),
        choice("Numbers", "numbers", "All numbers of the account", known?.numbers ?? "*", numbers),
        field("Name", name, known ? null : "Left empty, it is the host of the URL."),
        field("Description", element("input", { name: "description", maxlength: 256, value: known?.description ?? "" })),
        known ? null : field("Secret", element("input", { name: "secret", autocomplete: "off", spellcheck: "false", placeholder: "whsec_..." }),
          "Signs each delivery. Leave empty for none; you can add one later."),
        element("details", {}, element("summary", {}, "More"),
          field("Method", words("method", METHODS, known?.method ?? "POST")),
          headerFields(known),
          field("Condition", element("textarea", { name: "condition", rows: 3, spellcheck: "false",
            placeholder: '{"pointer": "/entry/0/changes/0/value/messages/0/type", "eq": "text"}' },
            known?.condition ? JSON.stringify(known.condition) : null),
            "What the payload must be like, as JSON. Leave empty for any payload."),
          !known || known.profile === "wabahook" ? null : field("Payload", words("payload", PAYLOADS, known.payload)),
          field("Order", words("ordering", ORDERINGS, known?.ordering ?? "none")))),
      problem,
      element("div", { className: "actions" },
        element("button", { type: "submit", className: "primary" }, "Save"),
        element("button", { type: "button", onclick: close }, "Cancel")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        const body = bodyOf(form, known);
        const saved = known ? await request("PATCH", `/subscriptions/${known.id}`, body) : await create(body, !name.value.trim());
        close();
        done(saved);
        if (saved.hints?.length) dialog(`About the events of ${saved.name}`, (end) => [
          element("ul", { className: "hints" }, saved.hints.map((hint) => element("li", {}, hint))),
          element("div", { className: "actions" }, element("button", { type: "button", className: "primary", onclick: end }, "Close"))]);
      } catch (error) {
        problem.textContent = error.message;
        const named = (error.field ?? "").split(/[.[]/)[0];
        const input = form.elements[named];
        if (input?.focus) input.focus();
      }
    });
    return form;
  });
}
