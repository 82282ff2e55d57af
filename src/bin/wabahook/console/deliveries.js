// Decides how deliveries and dead letters are listed, looked into and replayed.

import { get, post } from "./api.js";
import { confirmed, count, dialog, element, empty, facts, moment, span, table, word } from "./dom.js";

const TONES = { owed: "quiet", retrying: "warn", blocked: "warn", dead: "bad" };

function select(label, name, values, chosen, change) {
  const input = element("select", { name, "aria-label": label, onchange: () => change(input.value) },
    values.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
  return input;
}

const queryOf = (pairs) => new URLSearchParams(Object.entries(pairs).filter(([, value]) => value)).toString();

function filters(view, route, asked, states) {
  const change = (name) => (value) => { location.hash = `#/${route}?${queryOf({ ...asked, [name]: value, cursor: "" })}`; };
  const webhooks = [["", "all webhooks"], ...view.webhooks.map((item) => [String(item.id), item.name])];
  return [
    states ? select("State", "state", states, asked.state ?? "", change("state")) : null,
    select("Webhook", "subscription", webhooks, asked.subscription ?? "", change("subscription")),
  ];
}

const nameOf = (view, id) => view.webhooks.find((item) => item.id === id)?.name ?? `webhook ${id}`;

function more(route, asked, cursor) {
  return cursor ? element("p", { className: "actions" }, element("a", { href: `#/${route}?${queryOf({ ...asked, cursor })}` }, "Older ones")) : null;
}

/** What is owed, retried, held back or dead. */
export async function deliveries(view, asked) {
  const { items, cursor } = await get(`/deliveries?${queryOf({ limit: "50", ...asked })}`);
  const states = [["", "every state"], ["owed", "owed"], ["retrying", "retrying"], ["blocked", "blocked"], ["dead", "dead"]];
  const rows = items.map((item) => [
    element("code", {}, item.event_id), nameOf(view, item.subscription), word(item.state, TONES[item.state] ?? "quiet"),
    count(item.attempts), item.reason ?? "", moment(item.due_at ?? item.at),
  ]);
  return [
    element("div", { className: "bar" }, element("h1", {}, "Deliveries"), filters(view, "deliveries", asked, states)),
    rows.length ? table(["event", "webhook", "state", "attempts", "reason", "due or died"], rows) : empty("Nothing is owed here."),
    more("deliveries", asked, cursor),
  ];
}

async function look(view, item) {
  const letter = await get(`/dead-letters/${item.id}`);
  dialog(`Dead letter of ${nameOf(view, item.subscription)}`, (close) => [
    facts([
      ["event", element("code", {}, letter.event_id)], ["type", letter.event_type ?? "unknown"], ["number", letter.number ?? "none"],
      ["reason", word(letter.reason, "bad")], ["attempts", count(letter.attempts)], ["died", moment(letter.at)],
    ]),
    element("h2", {}, "Attempts"),
    letter.history.length
      ? table(["attempt", "when", "reason", "took", "answer"], letter.history.map((failed) =>
        [String(failed.number), moment(failed.at), failed.reason, span(failed.took_ms), failed.excerpt ? element("pre", {}, failed.excerpt) : "no body"]))
      : empty("No attempt was made."),
    element("h2", {}, "Payload"),
    letter.payload === null || letter.payload === undefined ? empty("The payload is no text.") : element("pre", {}, letter.payload),
    element("div", { className: "actions" },
      element("button", { type: "button", className: "primary", onclick: () => { close(); view.run(() => replay(view, { ids: [item.id] })); } }, "Replay"),
      element("button", { type: "button", autofocus: true, onclick: close }, "Close")),
  ]);
}

async function replay(view, what) {
  const { replayed } = await post("/dead-letters/replay", what);
  view.told(`${count(replayed)} owed again.`);
}

/** The dead letters, newest first. */
export async function letters(view, asked) {
  const { items, cursor } = await get(`/dead-letters?${queryOf({ limit: "50", ...asked })}`);
  const boxes = items.map((item) => element("input", { type: "checkbox", value: item.id, "aria-label": `choose ${item.id}` }));
  const rows = items.map((item, place) => [
    boxes[place], moment(item.at), nameOf(view, item.subscription), word(item.reason, "bad"), count(item.attempts),
    element("button", { type: "button", onclick: () => view.run(() => look(view, item)) }, "Look into it"),
  ]);
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const some = element("button", { type: "button", disabled: true, onclick: () => view.run(() => replay(view, { ids: chosen() })) }, "Replay the chosen");
  boxes.forEach((box) => box.addEventListener("change", () => { some.disabled = chosen().length === 0; }));
  const which = { subscription: asked.subscription ? Number(asked.subscription) : undefined, reason: asked.reason };
  const all = element("button", { type: "button", disabled: items.length === 0, onclick: () => view.run(async () => {
    const of = asked.subscription ? ` of ${nameOf(view, Number(asked.subscription))}` : "";
    const text = `Every dead letter${of}${asked.reason ? ` with the reason ${asked.reason}` : ""} is owed again and tried at once.`;
    const what = Object.values(which).some((value) => value !== undefined) ? which : { since: "1970-01-01T00:00:00Z" };
    if (await confirmed("Replay all?", text, "Replay all")) await replay(view, what);
  }) }, "Replay all");
  const reasons = [...new Set([asked.reason, ...items.map((item) => item.reason)].filter(Boolean))].map((reason) => [reason, reason]);
  const reason = select("Reason", "reason", [["", "every reason"], ...reasons], asked.reason ?? "", (value) => {
    location.hash = `#/dead?${queryOf({ ...asked, reason: value, cursor: "" })}`;
  });
  return [
    element("div", { className: "bar" }, element("h1", {}, "Dead letters"), filters(view, "dead", asked), reason, some, all),
    rows.length ? table(["choose", "died", "webhook", "reason", "attempts", ""], rows) : empty("No delivery was given up."),
    more("dead", asked, cursor),
  ];
}
