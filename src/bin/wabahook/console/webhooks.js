// The list of webhooks, the page of one, and the actions on them.

import { get, post, queryOf, request, scope } from "./api.js";
import { attemptChart } from "./charts.js";
import { confirmed, count, counted, dialog, element, empty, facts, more, select, setter, span, table, textFilter, time, word } from "./dom.js";
import { edit } from "./form.js";

const STATES = { paused: ["paused", "warn"], disabled: ["disabled", "bad"] };

/** The health of a webhook in a few words. */
function health(item) {
  const { health: lane } = item;
  if (item.account_state) return word(`account ${item.account_state}`, "warn");
  if (item.state !== "active") return word(...STATES[item.state]);
  if (lane.rests_for_ms > 0) return word(`circuit breaker open for ${span(lane.rests_for_ms)}`, "bad");
  if (lane.failing_for_ms > 0) return word(`failing for ${span(lane.failing_for_ms)}`, "bad");
  if (lane.retrying > 0) return word(`${count(lane.retrying)} retrying`, "warn");
  return word("healthy", "good");
}

const names = (set, all) => (set === "*" ? all : set.join(", "));
const act = (view, text, work, tone) => element("button", { type: "button", className: tone, onclick: () => view.run(work) }, text);

function pauseOrResume(view, item) {
  return item.state === "active"
    ? act(view, "Pause", async () => { await post(`/subscriptions/${item.id}/pause`); view.report(`${item.name} is paused; events are kept for it.`); })
    : act(view, "Resume", async () => { await post(`/subscriptions/${item.id}/resume`); view.report(`${item.name} is resumed.`); });
}

async function test(item, view) {
  const answer = await post(`/subscriptions/${item.id}/test`);
  const said = answer.status ? `${answer.outcome}, status ${answer.status}` : `${answer.outcome}${answer.reason ? `, ${answer.reason}` : ""}`;
  const response = answer.excerpt ? ` Its response: ${answer.excerpt}` : "";
  view.report(`Test of ${item.name}: ${said}, in ${span(answer.took_ms)}.${response}`, answer.outcome !== "delivered");
}

async function remove(item, view) {
  const owed = item.health.owed ? ` Its ${count(item.health.owed)} owed deliveries are cancelled.` : "";
  if (await confirmed(`Delete ${item.name}?`, `It gets no more events.${owed} This cannot be undone.`, "Delete")) {
    await request("DELETE", `/subscriptions/${item.id}`);
    view.leaveTo("#/webhooks", `Deleted ${item.name}.`);
  }
}

const FILTERS = ["search", "state", "health", "events", "numbers", "profile"];
const STATE_CHOICES = [["", "every state"], ["active", "active"], ["paused", "paused"], ["disabled", "disabled"]];
const HEALTH_CHOICES = [["", "every health"], ["healthy", "healthy"], ["retrying", "retrying"], ["failing", "failing"], ["breaker_open", "failing, circuit breaker open"]];
const ORDERS = [["", "oldest first"], ["name", "by name"], ["owed", "most owed"], ["dead", "most died"], ["failing", "failing longest"]];

/** Pauses or resumes all webhooks that match, after counting them. */
function bulk(view, query, verb, text) {
  const filter = Object.fromEntries(FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]));
  // Without a filter: those that the change concerns.
  if (!Object.keys(filter).length) filter.search = "";
  return act(view, text, async () => {
    const { changed } = await post(`/subscriptions/${verb}`, { ...filter, dry_run: true });
    if (!changed) return view.report(`No webhook here can be ${verb}d.`);
    if (!await confirmed(`${text}?`, `${counted(changed, "webhook of this list is", "webhooks of this list are")} ${verb}d.`, text)) return null;
    const done = await post(`/subscriptions/${verb}`, filter);
    return view.report(`${counted(done.changed, "webhook is", "webhooks are")} ${verb}d.`);
  });
}

/** The webhooks that match, a page of them. */
export async function list(view, query) {
  const { items, cursor, total } = await get(`/subscriptions?${queryOf({ limit: "25", ...query })}`);
  const set = setter("webhooks", query);
  const create = view.account
    ? element("button", { type: "button", className: "primary", onclick: () => edit(view.account, null, (made) => view.report(`Saved ${made.name}.`)) }, "New webhook")
    : element("span", { className: "hint" }, "To add or edit a webhook, choose its account at the top.");
  const hasAccounts = view.isOperator && !scope.account;
  const rows = items.map((item) => [
    element("a", { href: `#/webhooks/${item.id}` }, item.name), ...(hasAccounts ? [item.account_name ?? item.account] : []), health(item),
    element("span", { className: "mono" }, item.url), count(item.health.delivered), count(item.health.owed), count(item.health.dead),
  ]);
  const isFiltered = FILTERS.some((name) => query[name]);
  return [
    element("div", { className: "bar" }, element("h1", {}, "Webhooks"), element("span", { className: "hint" }, `${count(total)} ${isFiltered ? "match" : "in all"}`), create),
    element("div", { className: "filters" },
      textFilter("Name, URL or id", "search", query.search, set("search")),
      select("State", "state", STATE_CHOICES, query.state ?? "", set("state")),
      select("Health", "health", HEALTH_CHOICES, query.health ?? "", set("health")),
      textFilter("Event type", "events", query.events, set("events")),
      textFilter("Number", "numbers", query.numbers, set("numbers")),
      select("Order", "sort", ORDERS, query.sort ?? "", set("sort"))),
    rows.length ? table(["webhook", ...(hasAccounts ? ["account"] : []), "health", "URL", "delivered", "owed", "died"], rows)
      : empty(isFiltered ? "No webhook matches." : "No webhook yet. A new one gets the matching events that are published after its creation."),
    total ? element("p", { className: "actions" }, bulk(view, query, "pause", "Pause all of these"), bulk(view, query, "resume", "Resume all of these")) : null,
    more("webhooks", query, cursor),
  ];
}

function rotate(item, view) {
  dialog(item.signed ? "New secret" : "Sign with a secret", (close) => {
    const overlap = element("select", { id: "overlap" },
      [[86_400_000, "1 day"], [3_600_000, "1 hour"], [0, "revoke now"]].map(([ms, text]) => element("option", { value: ms }, text)));
    const shown = element("div", {});
    const make = element("button", { type: "button", className: "primary", onclick: () => view.run(async () => {
      const answer = await post(`/subscriptions/${item.id}/secret`, { overlap_ms: Number(overlap.value) });
      shown.replaceChildren(element("p", {}, "Shown only once; copy it now:"), element("pre", { className: "secret" }, answer.secret));
      make.disabled = true;
    }) }, "Create secret");
    const done = () => { close(); view.report(make.disabled ? `${item.name} has a new secret.` : ""); };
    return [
      element("p", {}, "From now on each delivery is signed with the new secret."),
      element("label", { for: "overlap" }, "Old secret stays valid for"), overlap, shown,
      element("div", { className: "actions" }, make, element("button", { type: "button", onclick: done }, "Close")),
    ];
  });
}

function retryOf(retry) {
  const ends = [retry.attempts ? `${count(retry.attempts)} attempts` : null, retry.max_age_ms ? `for ${span(retry.max_age_ms)}` : null].filter(Boolean).join(", ");
  switch (retry.kind) {
    case "list": return `after ${retry.delays_ms.map(span).join(", ")}; ${ends}`;
    case "linear": return `each time ${span(retry.step_ms)} later, up to ${span(retry.max_ms)}; ${ends}`;
    default: return `from ${span(retry.initial_ms)}, doubling up to ${span(retry.max_ms)}; ${ends}`;
  }
}

/** Names and values of everything that is set. */
function policy(item) {
  const set = [
    ["profile", item.profile], ["events", names(item.events, "all events")], ["numbers", names(item.numbers, "all numbers of the account")],
    ["signed", item.signed ? "yes" : "no"], ["headers", item.header_names.join(", ") || "none"],
    ["query", item.query_names.join(", ") || "none"], ["body extras", item.body_names.join(", ") || "none"],
    ["authorization", item.authorization?.type ?? "none"], ["body format", item.body_format],
    ["payload", item.profile === "wabahook" ? "as published" : item.payload === "meta" ? "Meta's callback" : "the gateway's own body"], ["TLS", item.tls ? "own settings" : "default"],
    ["retry", retryOf(item.retry)], ["retry on timeout", item.retry_on_timeout ? "yes" : "no"], ["retry on", item.retry_on],
    ["timeout", span(item.timeout_ms)], ["success", item.accept], ["ordering", item.ordering],
    ["rate limit", item.rate_limit ? `${count(item.rate_limit.events)} per ${span(item.rate_limit.per_ms)}` : "none"],
    ["after webhook", item.after ?? "none"],
    ["circuit breaker", item.breaker === "never" ? "never" : Object.entries(item.breaker).map(([name, value]) => `${name} ${value}`).join(", ")],
    ["disabled after", item.disable_after_ms === "never" ? "never" : span(item.disable_after_ms)],
    ["retrying at most", count(item.retrying_max)],
    ["condition", item.condition ? element("code", {}, JSON.stringify(item.condition)) : "none"],
    ["created", time(item.created_at)],
  ];
  return element("details", { className: "card" }, element("summary", {}, "Settings"), facts(set.map(([name, value]) => [name, value instanceof Node ? value : String(value)])));
}

/** The median time of attempts, as text. */
function median(attempts) {
  const took = attempts.map((attempt) => attempt.took_ms).sort((one, other) => one - other);
  return took.length ? span(took[Math.floor(took.length / 2)]) : "no attempt yet";
}

function figures(item, attempts) {
  const { health: lane } = item;
  return facts([
    ["URL", element("span", { className: "mono" }, `${item.method ?? "POST"} ${item.url}`)],
    ...(item.description ? [["description", item.description]] : []),
    ["delivered", count(lane.delivered)], ["owed", count(lane.owed)], ["retrying", count(lane.retrying)], ["blocked", count(lane.blocked)],
    ["died", count(lane.dead)], ["median latency", median(attempts)],
    ...(lane.failing_for_ms > 0 ? [["failing for", span(lane.failing_for_ms)], ["failures in a row", count(lane.failures_in_row)]] : []),
  ]);
}

const DISABLED = { "status:410": "its receiver answered 410", receiver_disabled: "its receiver answered webhook-delivery: disable", failing: "it failed for too long" };

/** Why a webhook gets no deliveries, in a sentence or two. */
function obstacle(item) {
  const { health: lane, attempts = [] } = item;
  const last = attempts.find((attempt) => attempt.outcome !== "delivered");
  const kept = `Events are kept for it: ${count(lane.owed)} owed.`;
  if (item.account_state) return [`Its account ${item.account_name} is ${item.account_state} since `, time(item.account_state_since), `, so nothing is delivered until the account is active again. ${kept}`];
  if (item.state === "paused") return `Paused. ${kept} Resume it to deliver them.`;
  const failed = last && (lane.failing_for_ms > 0 || lane.retrying > 0)
    ? [`The last attempt, at `, time(last.at), `, failed: `, word(last.reason ?? last.outcome, "bad"), last.excerpt ? element("pre", {}, last.excerpt) : " "] : [];
  if (item.state === "disabled") return [`Disabled: ${DISABLED[item.reason] ?? item.reason ?? "it failed for too long, or its receiver answered 410"}. `, kept, " Resume it when the receiver works again. ", ...failed];
  if (lane.rests_for_ms > 0) return [...failed, `After ${count(lane.failures_in_row)} failures in a row the circuit breaker is open: the next attempt is in ${span(lane.rests_for_ms)}. A test that succeeds, or a new URL, closes it.`];
  if (failed.length && lane.retrying > 0) return [...failed, element("a", { href: `#/deliveries?${queryOf({ subscription: String(item.id), state: "retrying" })}` }, `${counted(lane.retrying, "delivery waits", "deliveries wait")} for the next attempt`), "."];
  return failed.length ? failed : null;
}

/** One webhook: its health, its settings, and its newest attempts. */
export async function one(view, id) {
  const item = await get(`/subscriptions/${id}?attempts=50`);
  const { attempts = [] } = item;
  const rows = attempts.slice(0, 25).map((attempt) => [
    element("a", { href: `#/events/${attempt.event_id}` }, time(attempt.at)), attempt.event_type ?? "", String(attempt.attempt),
    attempt.outcome === "delivered" ? word("delivered", "good") : word(attempt.reason ?? attempt.outcome, "bad"), span(attempt.took_ms),
    attempt.excerpt ? element("pre", {}, attempt.excerpt) : "",
  ]);
  const change = view.account ? act(view, "Edit", () => edit(view.account, item, (saved) => view.report(`Saved ${saved.name}.`))) : null;
  const why = obstacle(item);
  return [
    element("article", { className: "card", "data-id": item.id },
      element("div", { className: "head" }, element("h1", {}, item.name), health(item)),
      why ? element("div", { className: "obstacle" }, why) : null,
      figures(item, attempts),
      element("p", { className: "hint" }, "Delivered and died: since the host started."),
      element("div", { className: "actions" },
        change, pauseOrResume(view, item), act(view, "Send a test", () => test(item, view)),
        element("button", { type: "button", onclick: () => rotate(item, view) }, item.signed ? "New secret" : "Sign with a secret"),
        act(view, "Delete", () => remove(item, view), "danger")),
      element("p", { className: "actions links" },
        element("a", { href: `#/deliveries?subscription=${id}` }, "Its deliveries"), element("a", { href: `#/dead?subscription=${id}` }, "Its dead letters"))),
    policy(item),
    element("h2", {}, "Newest attempts"),
    attempts.length ? attemptChart(attempts) : null,
    rows.length ? table(["when", "event type", "attempt", "outcome", "took", "response"], rows) : empty("No attempt since the host started."),
  ];
}
