// The lists of deliveries and dead letters, the details of a dead letter, replays and discards.

import { get, post, queryOf } from "./api.js";
import { confirmed, count, counted, dialog, element, empty, facts, more, select, setAll, setter, span, table, textFilter, time, timeFilter, word } from "./dom.js";
import { stateOf } from "./find.js";

const STATES = [["", "every state"], ["owed", "owed"], ["retrying", "retrying"], ["blocked", "blocked"], ["dead", "dead"]];
const nameOf = (item) => item.subscription_name ?? `webhook ${item.subscription} (removed)`;
const webhook = (item) => (item.subscription_name === null ? nameOf(item) : element("a", { href: `#/webhooks/${item.subscription}` }, item.subscription_name));

function filters(route, query, first) {
  const set = setter(route, query);
  return element("div", { className: "filters" }, first,
    textFilter("Webhook", "subscription", query.subscription, set("subscription")),
    textFilter("Event type", "event_type", query.event_type, set("event_type")),
    textFilter("Number", "number", query.number, set("number")),
    textFilter("Reason", "reason", query.reason, set("reason")));
}

const midnight = (daysAgo) => { const at = new Date(); at.setHours(0, 0, 0, 0); at.setDate(at.getDate() - daysAgo); return at.toISOString(); };
const ago = (hours) => new Date(Date.now() - hours * 3_600_000).toISOString();
const PERIODS = [
  ["", "at any time", () => ["", ""]], ["hour", "in the last hour", () => [ago(1), ""]], ["today", "today", () => [midnight(0), ""]],
  ["yesterday", "yesterday", () => [midnight(1), midnight(0)]], ["week", "in the last 7 days", () => [ago(168), ""]], ["between", "between these times", null],
];

/** When a dead letter died: a choice that fills in the times, and the times. */
function died(query) {
  const set = setter("dead", query);
  const isLimited = query.since || query.until;
  const choose = (name) => {
    const times = PERIODS.find(([one]) => one === name)[2];
    if (times) { const [since, until] = times(); setAll("dead", query, { since, until }); }
  };
  return [
    select("Died", "died", PERIODS.map(([name, text]) => [name, `died ${text}`]), isLimited ? "between" : "", choose),
    isLimited ? [timeFilter("from", "since", query.since, set("since")), timeFilter("until", "until", query.until, set("until"))] : null,
  ];
}

/** The deliveries that are owed, retrying, blocked or dead. */
export async function deliveries(view, query) {
  const { items, cursor } = await get(`/deliveries?${queryOf({ limit: "25", ...query })}`);
  const rows = items.map((item) => [
    element("a", { href: `#/events/${item.event_id}` }, item.accepted_at ? time(item.accepted_at) : "event"), webhook(item), stateOf(item.state),
    item.event_type ?? "", item.number ?? "", count(item.attempts), item.reason ?? "", item.due_at ? time(item.due_at) : "",
  ]);
  return [
    element("div", { className: "bar" }, element("h1", {}, "Deliveries")),
    filters("deliveries", query, select("State", "state", STATES, query.state ?? "", setter("deliveries", query)("state"))),
    rows.length ? table(["accepted", "webhook", "state", "event type", "number", "attempts", "last reason", "next attempt"], rows)
      : empty(cursor ? "Nothing matches on this page." : "No delivery here."),
    more("deliveries", query, cursor),
  ];
}

async function details(view, item) {
  const letter = await get(`/dead-letters/${item.id}`);
  dialog(`Dead letter of ${nameOf(item)}`, (close) => [
    facts([
      ["event", element("a", { href: `#/events/${letter.event_id}`, onclick: () => close() }, element("code", {}, letter.event_id))],
      ["event type", letter.event_type ?? "unknown"], ["number", letter.number ?? "none"],
      ["reason", word(letter.reason, "bad")], ["attempts", count(letter.attempts)], ["died", time(letter.at)],
    ]),
    element("h2", {}, "Attempts"),
    letter.history.length
      ? table(["attempt", "when", "reason", "took", "response"], letter.history.map((failed) =>
        [String(failed.number), time(failed.at), failed.reason, span(failed.took_ms), failed.excerpt ? element("pre", {}, failed.excerpt) : "no body"]))
      : empty("No attempt was made."),
    element("details", { open: true }, element("summary", {}, "Payload"),
      letter.payload === null || letter.payload === undefined ? empty("The payload is not text.") : element("pre", { tabindex: "0" }, letter.payload)),
    element("div", { className: "actions" },
      element("button", { type: "button", className: "primary", onclick: () => { close(); view.run(() => replay(view, { ids: [item.id] })); } }, "Replay"),
      element("button", { type: "button", autofocus: true, onclick: close }, "Close")),
  ]);
}

async function replay(view, what) {
  const { replayed } = await post("/dead-letters/replay", what);
  await view.report(`Replayed: ${count(replayed)}.`);
}

async function discard(view, what) {
  const { discarded } = await post("/dead-letters/discard", what);
  await view.report(`Discarded: ${count(discarded)}.`);
}

/** What the list shows, for a change of all of them. A change names a webhook by its id: that of a name is known from an item. */
function filterOf(query, items) {
  const { subscription, reason, event_type: type, number, since, until } = query;
  const filter = Object.fromEntries(Object.entries({ reason, event_type: type, number, since, until }).filter(([, value]) => value));
  if (subscription) {
    filter.subscription = items[0]?.subscription ?? Number(subscription);
    if (!Number.isInteger(filter.subscription)) throw new Error("Open a page that shows one of this webhook's dead letters first.");
  }
  return Object.keys(filter).length ? filter : { since: "1970-01-01T00:00:00Z" };
}

/** Counts what matches, asks, and does it. */
async function all(view, filter, verb, path, count_of, work) {
  const answer = await post(path, { ...filter, dry_run: true });
  const found = answer[count_of];
  if (!found) return view.report("No dead letter matches.");
  const what = counted(found, "dead letter", "dead letters");
  const effect = verb === "Replay" ? `${what} of this list ${found === 1 ? "is" : "are"} delivered again.` : `${what} of this list ${found === 1 ? "ends" : "end"} for good. This cannot be undone.`;
  return (await confirmed(`${verb} all?`, effect, `${verb} all`)) ? work(view, filter) : null;
}

/** The dead letters, newest first. */
export async function letters(view, query) {
  const { items, cursor } = await get(`/dead-letters?${queryOf({ limit: "25", ...query })}`);
  const boxes = items.map((item) => element("input", { type: "checkbox", value: item.id, "aria-label": `Select ${item.id}` }));
  const rows = items.map((item, place) => [
    boxes[place], time(item.at), webhook(item), item.event_type ?? "", item.number ?? "", word(item.reason, "bad"), count(item.attempts),
    element("button", { type: "button", "aria-label": `View ${item.id}`, onclick: () => view.run(() => details(view, item)) }, "View"),
  ]);
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const some = (text, work, tone) => element("button", { type: "button", className: tone, disabled: true, onclick: () => view.run(() => work(view, { ids: chosen() })) }, text);
  const selected = [some("Replay selected", replay), some("Discard selected", discard, "danger")];
  boxes.forEach((box) => box.addEventListener("change", () => selected.forEach((button) => { button.disabled = chosen().length === 0; })));
  const every = (verb, path, member, work, tone) => element("button", {
    type: "button", className: tone, disabled: items.length === 0 && !cursor, onclick: () => view.run(() => all(view, filterOf(query, items), verb, path, member, work)),
  }, `${verb} all`);
  return [
    element("div", { className: "bar" }, element("h1", {}, "Dead letters"), selected,
      every("Replay", "/dead-letters/replay", "replayed", replay), every("Discard", "/dead-letters/discard", "discarded", discard, "danger")),
    filters("dead", query),
    element("div", { className: "filters" }, died(query)),
    rows.length ? table(["select", "died", "webhook", "event type", "number", "reason", "attempts", "details"], rows)
      : empty(cursor ? "Nothing matches on this page." : "No dead letters."),
    more("dead", query, cursor),
  ];
}
