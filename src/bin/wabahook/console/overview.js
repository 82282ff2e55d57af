// The overview: the counters, how they change, and the webhooks that need somebody.

import { get } from "./api.js";
import { charts } from "./charts.js";
import { count, element, empty, span, table, time, word } from "./dom.js";

function tile(name, value, href) {
  const inner = [element("div", { className: "figure" }, count(value)), element("div", { className: "name" }, href ? element("a", { href }, name) : name)];
  return element("div", { className: "card tile" }, inner);
}

/** The numbers and WABAs that callbacks named and no account owns. */
function unowned(items) {
  if (!items.length) return null;
  const rows = items.map((item) => [item.number ?? "none", item.waba ?? "none", count(item.events), time(item.first_at), time(item.last_at)]);
  return [
    element("h2", {}, "Callbacks without an account"),
    element("p", { className: "hint" }, "Callbacks named these numbers and WABAs, and no account of this host owns them. The last one comes first."),
    table(["number", "WABA", "events", "first", "last"], rows),
  ];
}

const isWorth = (lane) => lane.state === "disabled" || lane.failing_for_ms > 0 || lane.dead > 0 || lane.retrying > 0;

function problem(lane) {
  if (lane.state !== "active") return word(lane.state, lane.state === "disabled" ? "bad" : "warn");
  if (lane.failing_for_ms > 0) return word(`failing for ${span(lane.failing_for_ms)}`, "bad");
  return lane.retrying > 0 ? word("retrying", "warn") : word("healthy", "good");
}

function worst(lanes) {
  const rows = lanes.filter(isWorth).map((lane) =>
    [element("a", { href: `#/webhooks/${lane.id}` }, lane.name), problem(lane), count(lane.owed), count(lane.retrying), count(lane.dead)]);
  return [
    element("h2", {}, "Webhooks that need attention"),
    rows.length ? table(["webhook", "health", "owed", "retrying", "dead"], rows) : empty("None: every webhook is healthy."),
  ];
}

let sources = { at: 0, items: [] };

export async function overview(view) {
  const stats = await get("/stats?worst=10");
  document.dispatchEvent(new CustomEvent("figures", { detail: stats }));
  // Only the operator sees them. They change seldom, and are not read with each refresh.
  if (view.isOperator && Date.now() - sources.at > 10_000) sources = { at: Date.now(), items: (await get("/admin/unowned?limit=10")).items };
  return [
    element("h1", {}, "Overview"),
    stats.reasons.length ? element("p", { className: "problem" }, `Deliveries wait because a bound is reached: ${stats.reasons.join(", ")}.`) : null,
    element("div", { className: "tiles" },
      tile("events accepted", stats.accepted), tile("delivered", stats.delivered), tile("owed", stats.owed, "#/deliveries"),
      tile("dead letters", stats.dead, "#/dead"), tile("no subscriber", stats.unrouted),
      tile("webhooks", stats.subscription_count, "#/webhooks"), tile("failing webhooks", stats.failing_subscriptions, "#/webhooks?sort=failing")),
    charts(),
    element("p", { className: "hint" }, "Counters are of the whole host since it started; webhooks are of this account."),
    worst(stats.subscriptions),
    view.isOperator ? unowned(sources.items) : null,
  ];
}
