// The list of webhooks, and the actions on each.

import { get, post, request } from "./api.js";
import { confirmed, count, dialog, element, empty, facts, time, span, table, word } from "./dom.js";
import { edit } from "./form.js";

const STATES = { active: ["active", "good"], paused: ["paused", "warn"], disabled: ["disabled", "bad"] };

/** The health of a webhook in a few words. */
function health(item) {
  const { health } = item;
  if (item.state !== "active") return word(...STATES[item.state]);
  if (health.rests_for_ms > 0) return word(`circuit breaker open for ${span(health.rests_for_ms)}`, "bad");
  if (health.failing_for_ms > 0) return word(`failing for ${span(health.failing_for_ms)}`, "bad");
  if (health.retrying > 0) return word(`${count(health.retrying)} in retry`, "warn");
  return word("healthy", "good");
}

const names = (set, all) => (set === "*" ? all : set.join(", "));

/** The median time of the newest attempts, as text. */
function latency(attempts) {
  const took = attempts.map((attempt) => attempt.took_ms).sort((one, other) => one - other);
  return took.length ? span(took[Math.floor(took.length / 2)]) : "no attempt yet";
}

function card(item, view) {
  const { health: lane } = item;
  const speed = element("span", {}, "...");
  get(`/subscriptions/${item.id}/attempts?limit=50`)
    .then((answer) => { speed.textContent = latency(answer.items); }, () => { speed.textContent = "unknown"; });
  const act = (text, work, tone) => element("button", { type: "button", className: tone, onclick: () => view.run(work) }, text);
  return element("article", { className: "card", "data-id": item.id, "aria-label": item.name },
    element("div", { className: "head" }, element("h3", {}, element("a", { href: `#/webhooks/${item.id}` }, item.name)), health(item)),
    element("p", { className: "mono" }, `${item.method ?? "POST"} ${item.url}`),
    item.description ? element("p", {}, item.description) : null,
    facts([
      ["events", names(item.events, "all events")], ["numbers", names(item.numbers, "all numbers")],
      ["delivered", count(lane.delivered)], ["owed", count(lane.owed)], ["dead", count(lane.dead)],
      ["latency", speed], ["profile", item.profile],
      ...(lane.failing_for_ms > 0 ? [["failing for", span(lane.failing_for_ms)], ["failures in a row", count(lane.failures_in_row)]] : []),
    ]),
    element("div", { className: "actions" },
      act("Edit", () => edit(view.account, item, () => view.report(`Saved ${item.name}.`))),
      item.state === "active"
        ? act("Pause", async () => { await post(`/subscriptions/${item.id}/pause`); view.report(`${item.name} is paused; events are kept for it.`); })
        : act("Resume", async () => { await post(`/subscriptions/${item.id}/resume`); view.report(`${item.name} is resumed.`); }),
      act("Send a test", () => test(item, view)),
      act("Delete", () => remove(item, view), "danger")));
}

async function test(item, view) {
  const answer = await post(`/subscriptions/${item.id}/test`);
  const said = answer.status ? `${answer.outcome}, status ${answer.status}` : `${answer.outcome}${answer.reason ? `, ${answer.reason}` : ""}`;
  view.report(`Test of ${item.name}: ${said}, in ${span(answer.took_ms)}.`, answer.outcome !== "delivered");
}

async function remove(item, view) {
  const owed = item.health.owed ? ` Its ${count(item.health.owed)} owed deliveries are cancelled.` : "";
  if (await confirmed(`Delete ${item.name}?`, `It gets no more events.${owed} This cannot be undone.`, "Delete")) {
    await request("DELETE", `/subscriptions/${item.id}`);
    view.report(`Deleted ${item.name}.`);
    location.hash = "#/webhooks";
  }
}

/** All webhooks. */
export async function list(view) {
  const { items } = await get("/subscriptions");
  const create = element("button", { type: "button", className: "primary", onclick: () => edit(view.account, null, (made) => view.report(`Saved ${made.name}.`)) }, "New webhook");
  return [
    element("div", { className: "bar" }, element("h1", {}, "Webhooks"), create),
    items.length
      ? element("div", { className: "cards" }, items.map((item) => card(item, view)))
      : empty("No webhook yet. A new one gets the matching events that are published after its creation."),
  ];
}

function rotate(item, view) {
  dialog("New secret", (close) => {
    const overlap = element("select", { id: "overlap" },
      [[86_400_000, "1 day"], [3_600_000, "1 hour"], [0, "revoke now"]].map(([ms, text]) => element("option", { value: ms }, text)));
    const shown = element("div", {});
    const make = element("button", { type: "button", className: "primary", onclick: () => view.run(async () => {
      const answer = await post(`/subscriptions/${item.id}/secret`, { overlap_ms: Number(overlap.value) });
      shown.replaceChildren(element("p", {}, "Shown only once; copy it now:"), element("pre", { className: "secret" }, answer.secret));
      make.disabled = true;
    }) }, "Create secret");
    return [
      element("p", {}, "From now on each delivery is signed with the new secret."),
      element("label", { for: "overlap" }, "Old secret stays valid for"), overlap, shown,
      element("div", { className: "actions" }, make, element("button", { type: "button", onclick: close }, "Close")),
    ];
  });
}

/** One webhook with its newest attempts. */
export async function one(view, id) {
  const item = await get(`/subscriptions/${id}`);
  const { items: attempts } = await get(`/subscriptions/${id}/attempts?limit=100`);
  const rows = attempts.map((attempt) => [
    time(attempt.at), attempt.event_type ?? "", element("code", {}, attempt.event_id), String(attempt.attempt),
    attempt.outcome === "delivered" ? word("delivered", "good") : word(attempt.reason ?? attempt.outcome, "bad"), span(attempt.took_ms),
  ]);
  return [
    element("div", { className: "bar" }, element("h1", {}, item.name),
      element("button", { type: "button", onclick: () => rotate(item, view) }, item.signed ? "New secret" : "Sign with a secret"),
      element("a", { href: `#/deliveries?subscription=${id}` }, "Deliveries"),
      element("a", { href: `#/dead?subscription=${id}` }, "Dead letters")),
    card(item, view),
    element("h2", {}, "Newest attempts"),
    rows.length ? table(["when", "event", "id", "attempt", "outcome", "took"], rows) : empty("No attempt since the host started."),
  ];
}
