// Shows the view of the address, keeps it fresh, and signs in and out.

import { get, key } from "./api.js";
import { add, charts, forget } from "./charts.js";
import { deliveries, letters } from "./deliveries.js";
import { count, element, table, time } from "./dom.js";
import * as webhooks from "./webhooks.js";

const READ_EVERY_MS = 2_000;
const [signin, shell, main, status] = ["signin", "console", "main", "status"].map((id) => document.getElementById(id));

const view = {
  account: null,
  webhooks: [],
  /** Shows a message, for screen readers too, and refreshes the view. */
  report(text, bad = false) {
    status.textContent = text;
    status.classList.toggle("bad", bad);
    return show();
  },
  /** Runs an action and shows its error. */
  async run(work) {
    try { await work(); } catch (error) { status.textContent = error.message; status.classList.add("bad"); }
  },
};

function tile(name, value, href) {
  const figure = element("div", { className: "figure" }, count(value));
  const inner = [figure, element("div", { className: "name" }, href ? element("a", { href }, name) : name)];
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

async function overview() {
  const [stats, { items }] = await Promise.all([get("/stats"), get("/admin/unowned?limit=10")]);
  const failing = stats.subscriptions.filter((lane) => lane.failing_for_ms > 0 || lane.state === "disabled").length;
  return [
    element("h1", {}, "Overview"),
    stats.reasons.length ? element("p", { className: "problem" }, `Deliveries wait because a bound is reached: ${stats.reasons.join(", ")}.`) : null,
    element("div", { className: "tiles" },
      tile("events accepted", stats.accepted), tile("delivered", stats.delivered), tile("owed", stats.owed, "#/deliveries"),
      tile("dead letters", stats.dead, "#/dead"), tile("no subscriber", stats.unrouted), tile("failing webhooks", failing, "#/webhooks")),
    charts(),
    element("p", { className: "hint" }, "Counters are of the whole host since it started; webhooks are of this account."),
    unowned(items),
  ];
}

function route() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean), query: Object.fromEntries(new URLSearchParams(search ?? "")) };
}

async function built() {
  const { parts: [name, id], query } = route();
  if (name === "webhooks") return id ? webhooks.one(view, Number(id)) : webhooks.list(view);
  if (name === "deliveries" || name === "dead") {
    view.webhooks = (await get("/subscriptions")).items;
    return name === "dead" ? letters(view, query) : deliveries(view, query);
  }
  return overview();
}

let shown = 0;

/** Shows the view of the address. The newest call wins, however late an older one ends. */
async function show() {
  const mine = ++shown;
  for (const link of document.querySelectorAll("nav a")) {
    const [name] = route().parts;
    const current = link.getAttribute("href") === `#/${name ?? ""}`;
    if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  try {
    const parts = await built();
    if (mine === shown) main.replaceChildren(...parts.flat().filter(Boolean));
  } catch (error) {
    if (mine === shown && error.status !== 401) main.replaceChildren(element("p", { className: "problem", role: "alert" }, error.message));
  }
}

let reading = 0;

/** Reads the counters while somebody is signed in, and refreshes the overview. */
async function read() {
  const mine = ++reading;
  while (mine === reading && key.value()) {
    try {
      add(await get("/stats"));
      // A view with the keyboard focus stays as it is.
      const busy = document.querySelector("dialog") || (document.activeElement !== main && main.contains(document.activeElement));
      if (route().parts.length === 0 && !busy) await show();
    } catch { /* shown by the view itself */ }
    await new Promise((resolve) => setTimeout(resolve, READ_EVERY_MS));
  }
}

async function enter() {
  view.account = await get("/account");
  document.getElementById("who").textContent = view.account.name;
  signin.hidden = true;
  shell.hidden = false;
  status.textContent = "";
  await show();
  read();
}

function leave() {
  key.forget();
  forget();
  reading += 1;
  shown += 1;
  main.replaceChildren();
  document.querySelectorAll("dialog").forEach((open) => open.close());
  shell.hidden = true;
  signin.hidden = false;
  document.getElementById("key").focus();
}

signin.addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = document.getElementById("key");
  const problem = document.getElementById("signin-problem");
  problem.textContent = "";
  key.keep(input.value);
  try {
    await enter();
    input.value = "";
    main.focus({ preventScroll: true });
  } catch (error) {
    key.forget();
    problem.textContent = error.status === 401 ? "No account has this key." : error.message;
    input.select();
  }
});
document.getElementById("signout").addEventListener("click", leave);
document.addEventListener("signed-out", () => { if (!shell.hidden) leave(); });
window.addEventListener("hashchange", () => {
  status.textContent = "";
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});

if (key.value()) enter().catch(leave); else leave();
