// "Where is this message?": finds events by what is known of them, and shows what became of one.

import { get, queryOf } from "./api.js";
import { count, element, empty, facts, more, select, span, table, time, word } from "./dom.js";

const BY = [["message_id", "message id"], ["contact", "contact"], ["number", "number"], ["dedup_key", "dedup key"], ["event_id", "event id"]];
export const TONES = {
  delivered: "good", owed: "quiet", retrying: "warn", blocked: "warn", dead: "bad", given_up: "bad",
  cancelled: "quiet", ended: "quiet", no_subscriber: "quiet",
};
export const stateOf = (state) => word(state.replaceAll("_", " "), TONES[state] ?? "quiet");

/** The address that searches for a text, by what it looks like. */
export function searchFor(text) {
  if (/^evt_[0-9a-f]{32}$/.test(text)) return `#/events/${text}`;
  const by = /^\+?[0-9 ]{7,16}$/.test(text) ? "contact" : "message_id";
  return `#/find?${queryOf({ by, value: by === "contact" ? text.replace(/[^0-9]/g, "") : text })}`;
}

function form(query) {
  const by = select("By", "by", BY, query.by ?? "message_id");
  const value = element("input", { name: "value", type: "search", "aria-label": "Value", value: query.value ?? "", spellcheck: "false", autocomplete: "off" });
  const type = element("input", { name: "type", "aria-label": "Event type", placeholder: "every event type", value: query.type ?? "", spellcheck: "false" });
  return element("form", {
    className: "filters", onsubmit(submitted) {
      submitted.preventDefault();
      const text = value.value.trim();
      location.hash = by.value === "event_id" ? `#/events/${text}` : `#/find?${queryOf({ by: by.value, value: text, type: type.value.trim() })}`;
    },
  }, by, value, type, element("button", { type: "submit", className: "primary" }, "Find"));
}

const names = (item) => item.deliveries.map((delivery) => delivery.subscription_name ?? `webhook ${delivery.subscription}`);

function shortly(item) {
  const known = names(item);
  return known.length > 3 ? `${known.slice(0, 3).join(", ")} and ${count(known.length - 3)} more` : known.join(", ");
}

/** The events that match. */
export async function find(view, query) {
  const heading = [element("h1", {}, "Find a message"), form(query)];
  const { by = "message_id", value, type, cursor } = query;
  const { items, cursor: next } = await get(`/events?${queryOf({ limit: "25", [by]: value, type, cursor })}`);
  const rows = items.map((item) => [
    element("a", { href: `#/events/${item.id}` }, time(item.accepted_at)), item.type, item.number ?? item.waba ?? "", stateOf(item.state), shortly(item),
  ]);
  const isAll = !value && !type;
  return [
    ...heading,
    element("p", { className: "hint" }, isAll ? "The newest events." : "What is owed, the dead letters, and the history of the events that ended."),
    rows.length ? table(["accepted", "event type", "number", "state", "webhooks"], rows)
      : empty(next ? "Nothing here yet; the search goes on." : "No event matches. It was never published here, or is no longer kept."),
    more("find", query, next),
  ];
}

function attempts(delivery) {
  if (!delivery.history.length) return element("p", { className: "hint" }, delivery.state === "owed" ? "No attempt yet; the page of the webhook says what it waits for." : "No attempt is known.");
  return table(["attempt", "when", "outcome", "took", "response"], delivery.history.map((attempt) => [
    String(attempt.number), time(attempt.at),
    attempt.outcome === "delivered" ? word(attempt.status ? `status ${attempt.status}` : "delivered", "good") : word(attempt.reason ?? attempt.outcome, "bad"),
    span(attempt.took_ms), attempt.excerpt ? element("pre", {}, attempt.excerpt) : "",
  ]));
}

function deliveryOf(delivery) {
  const name = delivery.subscription_name;
  return element("section", { className: "card" },
    element("div", { className: "head" },
      element("h2", {}, name ? element("a", { href: `#/webhooks/${delivery.subscription}` }, name) : `webhook ${delivery.subscription} (removed)`),
      stateOf(delivery.state)),
    facts([
      ...(delivery.reason ? [["reason", delivery.reason]] : []),
      ...(delivery.due_at ? [["next attempt", time(delivery.due_at)]] : []),
    ]),
    attempts(delivery));
}

/** One event, its deliveries and their attempts; the payload is behind a click. */
export async function event(view, id) {
  const item = await get(`/events/${encodeURIComponent(id)}`);
  const payload = item.payload === null ? empty("The payload is not text.") : element("pre", {}, item.payload);
  const cut = item.payload !== null && item.payload_bytes > new Blob([item.payload]).size;
  return [
    element("div", { className: "bar" }, element("h1", {}, item.type), stateOf(item.state)),
    facts([
      ["event id", element("code", {}, item.id)], ["number", item.number ?? "none"], ["WABA", item.waba ?? "none"],
      ["accepted", time(item.accepted_at)], ["duplicates", count(item.duplicates)], ["webhooks", count(item.deliveries.length)],
    ]),
    element("details", {}, element("summary", {}, `Payload (${count(item.payload_bytes)} bytes)`), payload, cut ? element("p", { className: "hint" }, "Only the beginning is kept.") : null),
    item.deliveries.length ? item.deliveries.map(deliveryOf) : empty("No webhook wanted this event."),
  ];
}
