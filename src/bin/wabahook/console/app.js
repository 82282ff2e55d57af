// Decides which view is shown, keeps it fresh, and signs in and out.

import { get, key } from "./api.js";
import { charts, forget, note } from "./charts.js";
import { deliveries, letters } from "./deliveries.js";
import { count, element } from "./dom.js";
import * as webhooks from "./webhooks.js";

const READ_EVERY_MS = 2_000;
const [signin, shell, main, status] = ["signin", "console", "main", "status"].map((id) => document.getElementById(id));

const view = {
  account: null,
  webhooks: [],
  /** Says what happened, aloud too, and shows the view as it is now. */
  told(text, bad = false) {
    status.textContent = text;
    status.classList.toggle("bad", bad);
    return show();
  },
  /** Does something, and says what was refused. */
  async run(work) {
    try { await work(); } catch (refused) { status.textContent = refused.message; status.classList.add("bad"); }
  },
};

function tile(name, value, href) {
  const figure = element("div", { className: "figure" }, count(value));
  const inner = [figure, element("div", { className: "name" }, href ? element("a", { href }, name) : name)];
  return element("div", { className: "card tile" }, inner);
}

async function overview() {
  const stats = await get("/stats");
  const failing = stats.subscriptions.filter((lane) => lane.failing_for_ms > 0 || lane.state === "disabled").length;
  return [
    element("h1", {}, "Overview"),
    element("div", { className: "tiles" },
      tile("events accepted", stats.accepted), tile("deliveries made", stats.delivered), tile("owed", stats.owed, "#/deliveries"),
      tile("dead", stats.dead, "#/dead"), tile("asked for by nobody", stats.unrouted), tile("webhooks in trouble", failing, "#/webhooks")),
    charts(),
    element("p", { className: "hint" }, "Counted over the whole host since it was started; webhooks are this account's own."),
  ];
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean), asked: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

async function built() {
  const { parts: [name, id], asked } = route();
  if (name === "webhooks") return id ? webhooks.one(view, Number(id)) : webhooks.list(view);
  if (name === "deliveries" || name === "dead") {
    view.webhooks = (await get("/subscriptions")).items;
    return name === "dead" ? letters(view, asked) : deliveries(view, asked);
  }
  return overview();
}

let shown = 0;

/** Shows the view that the address names. The newest call wins, however late another answers. */
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
  } catch (refused) {
    if (mine === shown && refused.status !== 401) main.replaceChildren(element("p", { className: "problem", role: "alert" }, refused.message));
  }
}

let reading = 0;

/** Reads the counters as long as somebody is signed in; the overview follows them. */
async function read() {
  const mine = ++reading;
  while (mine === reading && key.value()) {
    try {
      note(await get("/stats"));
      // What somebody is on with the keyboard stays as it is.
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
  } catch (refused) {
    key.forget();
    problem.textContent = refused.status === 401 ? "No account has this key." : refused.message;
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
