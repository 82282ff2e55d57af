// Decides how a webhook is described: by trigger names and numbers that are chosen, not typed.

import { ask, post } from "./api.js";
import { dialog, element } from "./dom.js";

function field(label, input, hint) {
  const id = `field-${Math.random().toString(36).slice(2)}`;
  input.id = id;
  return [element("label", { for: id }, label), input, hint ? element("p", { className: "hint" }, hint) : null];
}

const check = (name, text, checked, value) => element("label", { className: "check" },
  element("input", { type: "checkbox", name, value, checked }), text);

/** A choice of all or of some, with the names that are chosen already. */
function choice(title, name, all, chosen, entries) {
  const everything = element("input", { type: "checkbox", name: `${name}-all`, checked: chosen === "*" });
  const some = element("div", { className: "columns", hidden: chosen === "*" },
    entries.map(([value, text]) => check(name, text, chosen !== "*" && chosen.includes(value), value)));
  everything.addEventListener("change", () => { some.hidden = everything.checked; });
  return element("fieldset", { "data-set": name }, element("legend", {}, title),
    element("label", { className: "check" }, everything, all), some);
}

function chosenOf(form, name) {
  if (form.elements[`${name}-all`].checked) return "*";
  return [...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);
}

function headersOf(text) {
  const headers = {};
  for (const line of text.split("\n").filter((one) => one.trim())) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`headers: "${line}" is no line such as X-Tenant: acme`);
    headers[line.slice(0, colon).trim()] = line.slice(colon + 1).trim();
  }
  return headers;
}

/** What the form says, as the body of a request. */
function described(form, known) {
  const { name, url, method, headers, secret, ordering } = form.elements;
  const body = {
    name: name.value.trim(), url: url.value.trim(), method: method.value, ordering: ordering.value,
    events: chosenOf(form, "events"), numbers: chosenOf(form, "numbers"),
  };
  if (headers.value.trim()) body.headers = headersOf(headers.value);
  if (!known && secret.value) body.secret = secret.value;
  if (!known) return body;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  return Object.fromEntries(Object.entries(body).filter(([key, value]) => !same(value, known[key])));
}

function words(name, values, chosen) {
  return element("select", { name }, values.map(([value, text]) =>
    element("option", { value, selected: value === chosen }, text)));
}

const METHODS = ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD"].map((method) => [method, method]);
const ORDERINGS = [
  ["none", "none: a failing delivery holds up no other"],
  ["per_key", "per key: the events of one contact one after the other"],
  ["strict", "strict: all events one after the other"],
];

/** Opens the form for a new webhook, or for a change of one; `done` is told of what the host answers. */
export function edit(account, known, done) {
  const spoken = [...account.event_types].sort((one, other) => Boolean(other.label) - Boolean(one.label));
  const events = spoken.map(({ name, label }) => [name, label ? `${label} (${name})` : name]);
  const others = Array.isArray(known?.events) ? known.events.filter((name) => !events.some(([one]) => one === name)) : [];
  const numbers = account.wabas.flatMap((waba) => waba.numbers.map((number) => [number, `${number} (WABA ${waba.id})`]));
  const problem = element("p", { className: "problem", role: "alert" });
  dialog(known ? `Edit ${known.name}` : "New webhook", (close) => {
    const form = element("form", { method: "dialog" },
      field("Name", element("input", { name: "name", required: true, maxlength: 128, value: known?.name ?? "", autofocus: true })),
      field("URL", element("input", { name: "url", type: "url", required: true, value: known?.url ?? "", placeholder: "https://crm.example/hook" })),
      choice("Triggers", "events", "All events", known?.events ?? [], [...events, ...others.map((name) => [name, name])]),
      choice("Numbers", "numbers", "All numbers of the account", known?.numbers ?? "*", numbers),
      known ? null : field("Secret", element("input", { name: "secret", autocomplete: "off", spellcheck: "false", placeholder: "whsec_..." }),
        "Signs each delivery. Leave it empty for none; one can be made later."),
      element("details", {}, element("summary", {}, "More"),
        field("Method", words("method", METHODS, known?.method ?? "POST")),
        field("Headers", element("textarea", { name: "headers", rows: 3, spellcheck: "false", placeholder: "X-Tenant: acme" }),
          known?.header_names?.length ? `One a line. Set now: ${known.header_names.join(", ")}. Leave empty to keep them.` : "One a line."),
        field("Order", words("ordering", ORDERINGS, known?.ordering ?? "none"))),
      problem,
      element("div", { className: "actions" },
        element("button", { type: "submit", className: "primary" }, "Save"),
        element("button", { type: "button", onclick: close }, "Cancel")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        const body = described(form, known);
        const saved = known ? await ask("PATCH", `/subscriptions/${known.id}`, body) : await post("/subscriptions", body);
        close();
        done(saved);
      } catch (refused) {
        problem.textContent = refused.message;
        const named = (refused.field ?? "").split(/[.[]/)[0];
        const input = form.elements[named];
        if (input?.focus) input.focus();
      }
    });
    return form;
  });
}
