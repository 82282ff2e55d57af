// The overview: the counters, how they change, and the webhooks that need somebody.

import { get, queryOf, scope } from "./api.js";
import { charts } from "./charts.js";
import { count, element, empty, more, span, table, time, word } from "./dom.js";

function tile(name, value, href) {
  const inner = [element("div", { className: "figure" }, count(value)), element("div", { className: "name" }, href ? element("a", { href }, name) : name)];
  return element("div", { className: "card tile" }, inner);
}

/** The numbers and WABAs that callbacks named and no account owns, for the operator. */
export async function unowned(query) {
  const { items, cursor } = await get(`/admin/unowned?${queryOf({ limit: "25", ...query })}`);
  const rows = items.map((item) => [item.number ?? "none", item.waba ?? "none", count(item.events), time(item.first_at), time(item.last_at)]);
  return [
    element("h1", {}, "Unowned numbers"),
    element("p", { className: "hint" }, "Callbacks named these numbers and WABAs, and no account of this host owns them, so their events were not published. The last one comes first."),
    rows.length ? table(["number", "WABA", "events", "first", "last"], rows) : empty("None since the host started: an account owns every number and WABA of the callbacks."),
    more("unowned", query, cursor),
  ];
}

const isWorth = (lane) => lane.account_state || lane.state === "disabled" || lane.failing_for_ms > 0 || lane.dead > 0 || lane.retrying > 0;

function problem(lane) {
  if (lane.account_state) return word(`account ${lane.account_state}`, "warn");
  if (lane.state !== "active") return word(lane.state, lane.state === "disabled" ? "bad" : "warn");
  if (lane.rests_for_ms > 0) return word(`circuit breaker open for ${span(lane.rests_for_ms)}`, "bad");
  if (lane.failing_for_ms > 0) return word(`failing for ${span(lane.failing_for_ms)}`, "bad");
  return lane.retrying > 0 ? word("retrying", "warn") : word("healthy", "good");
}

function worst(lanes, hasAccounts) {
  const rows = lanes.filter(isWorth).map((lane) => [
    element("a", { href: `#/webhooks/${lane.id}` }, lane.name), ...(hasAccounts ? [lane.account_name ?? lane.account] : []),
    problem(lane), count(lane.owed), count(lane.retrying), count(lane.dead),
  ]);
  const columns = ["webhook", ...(hasAccounts ? ["account"] : []), "health", "owed", "retrying", "died"];
  return [
    element("h2", {}, "Webhooks that need attention"),
    rows.length ? table(columns, rows) : empty("None: every webhook is healthy."),
  ];
}

export async function overview(view) {
  const stats = await get("/stats?worst=10");
  document.dispatchEvent(new CustomEvent("figures", { detail: stats }));
  return [
    element("h1", {}, "Overview"),
    stats.reasons.length ? element("p", { className: "problem" }, `Deliveries wait because a bound is reached: ${stats.reasons.join(", ")}.`) : null,
    element("div", { className: "tiles" },
      tile("events accepted", stats.accepted), tile("delivered", stats.delivered), tile("no subscriber", stats.unrouted),
      tile("owed", stats.owed, "#/deliveries"), tile("dead letters", stats.dead_letters, "#/dead"),
      tile("webhooks", stats.subscription_count, "#/webhooks"), tile("failing webhooks", stats.failing_subscriptions, "#/webhooks?health=failing")),
    element("p", { className: "hint" }, "Accepted, delivered, without a subscriber: since the host started. Owed, dead letters and webhooks: now."),
    charts(),
    worst(stats.subscriptions, view.isOperator && !scope.account),
  ];
}
