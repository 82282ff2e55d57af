// The lists of deliveries and dead letters, the details of a dead letter, and replays.

import { get, post } from "./api.js";
import { confirmed, count, dialog, element, empty, facts, time, span, table, word } from "./dom.js";

const TONES = { owed: "quiet", retrying: "warn", blocked: "warn", dead: "bad" };

function select(label, name, values, chosen, change) {
  const input = element("select", { name, "aria-label": label, onchange: () => change(input.value) },
    values.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
  return input;
}

const queryOf = (pairs) => new URLSearchParams(Object.entries(pairs).filter(([, value]) => value)).toString();

function filters(view, route, query, states) {
  const change = (name) => (value) => { location.hash = `#/${route}?${queryOf({ ...query, [name]: value, cursor: "" })}`; };
  const webhooks = [["", "all webhooks"], ...view.webhooks.map((item) => [String(item.id), item.name])];
  return [
    states ? select("State", "state", states, query.state ?? "", change("state")) : null,
    select("Webhook", "subscription", webhooks, query.subscription ?? "", change("subscription")),
  ];
}

const nameOf = (view, id) => view.webhooks.find((item) => item.id === id)?.name ?? `webhook ${id}`;

function more(route, query, cursor) {
  return cursor ? element("p", { className: "actions" }, element("a", { href: `#/${route}?${queryOf({ ...query, cursor })}` }, "Older")) : null;
}

/** The deliveries that are owed, in retry, blocked or dead. */
export async function deliveries(view, query) {
  const { items, cursor } = await get(`/deliveries?${queryOf({ limit: "50", ...query })}`);
  const states = [["", "every state"], ["owed", "owed"], ["retrying", "retrying"], ["blocked", "blocked"], ["dead", "dead"]];
  const rows = items.map((item) => [
    element("code", {}, item.event_id), nameOf(view, item.subscription), word(item.state, TONES[item.state] ?? "quiet"),
    count(item.attempts), item.reason ?? "", time(item.due_at ?? item.at),
  ]);
  return [
    element("div", { className: "bar" }, element("h1", {}, "Deliveries"), filters(view, "deliveries", query, states)),
    rows.length ? table(["event", "webhook", "state", "attempts", "reason", "due or died"], rows) : empty("No delivery here."),
    more("deliveries", query, cursor),
  ];
}

async function details(view, item) {
  const letter = await get(`/dead-letters/${item.id}`);
  dialog(`Dead letter of ${nameOf(view, item.subscription)}`, (close) => [
    facts([
      ["event", element("code", {}, letter.event_id)], ["type", letter.event_type ?? "unknown"], ["number", letter.number ?? "none"],
      ["reason", word(letter.reason, "bad")], ["attempts", count(letter.attempts)], ["died", time(letter.at)],
    ]),
    element("h2", {}, "Attempts"),
    letter.history.length
      ? table(["attempt", "when", "reason", "took", "response"], letter.history.map((failed) =>
        [String(failed.number), time(failed.at), failed.reason, span(failed.took_ms), failed.excerpt ? element("pre", {}, failed.excerpt) : "no body"]))
      : empty("No attempt was made."),
    element("h2", {}, "Payload"),
    letter.payload === null || letter.payload === undefined ? empty("The payload is not text.") : element("pre", {}, letter.payload),
    element("div", { className: "actions" },
      element("button", { type: "button", className: "primary", onclick: () => { close(); view.run(() => replay(view, { ids: [item.id] })); } }, "Replay"),
      element("button", { type: "button", autofocus: true, onclick: close }, "Close")),
  ]);
}

async function replay(view, what) {
  const { replayed } = await post("/dead-letters/replay", what);
  view.report(`Replayed: ${count(replayed)}.`);
}

/** The dead letters, newest first. */
export async function letters(view, query) {
  const { items, cursor } = await get(`/dead-letters?${queryOf({ limit: "50", ...query })}`);
  const boxes = items.map((item) => element("input", { type: "checkbox", value: item.id, "aria-label": `select ${item.id}` }));
  const rows = items.map((item, place) => [
    boxes[place], time(item.at), nameOf(view, item.subscription), word(item.reason, "bad"), count(item.attempts),
    element("button", { type: "button", onclick: () => view.run(() => details(view, item)) }, "View"),
  ]);
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const some = element("button", { type: "button", disabled: true, onclick: () => view.run(() => replay(view, { ids: chosen() })) }, "Replay selected");
  boxes.forEach((box) => box.addEventListener("change", () => { some.disabled = chosen().length === 0; }));
  const which = { subscription: query.subscription ? Number(query.subscription) : undefined, reason: query.reason };
  const all = element("button", { type: "button", disabled: items.length === 0, onclick: () => view.run(async () => {
    const of = query.subscription ? ` of ${nameOf(view, Number(query.subscription))}` : "";
    const text = `Every dead letter${of}${query.reason ? ` with the reason ${query.reason}` : ""} is delivered again.`;
    const what = Object.values(which).some((value) => value !== undefined) ? which : { since: "1970-01-01T00:00:00Z" };
    if (await confirmed("Replay all?", text, "Replay all")) await replay(view, what);
  }) }, "Replay all");
  const reasons = [...new Set([query.reason, ...items.map((item) => item.reason)].filter(Boolean))].map((reason) => [reason, reason]);
  const reason = select("Reason", "reason", [["", "every reason"], ...reasons], query.reason ?? "", (value) => {
    location.hash = `#/dead?${queryOf({ ...query, reason: value, cursor: "" })}`;
  });
  return [
    element("div", { className: "bar" }, element("h1", {}, "Dead letters"), filters(view, "dead", query), reason, some, all),
    rows.length ? table(["select", "died", "webhook", "reason", "attempts", ""], rows) : empty("No dead letters."),
    more("dead", query, cursor),
  ];
}
