// Shows the view of the address, keeps it fresh, and signs in and out. A view is a function that returns nodes; what
// it shows is in the address, so that it can be bookmarked and shared.

import { get, key, notices, scope } from "./api.js";
import { add, forget } from "./charts.js";
import { deliveries, letters } from "./deliveries.js";
import { closeDialogs, element } from "./dom.js";
import { event, find, searchFor } from "./find.js";
import { overview, unowned } from "./overview.js";
import * as webhooks from "./webhooks.js";

const OVERVIEW_EVERY_MS = 2_000;
const REFRESH_AFTER_MS = 1_000;
const IDLE_CHECK_MS = 1_000;
const [signinPage, signin, shell, main, status, search, who] =
  ["signin-page", "signin", "console", "main", "status", "search", "who"].map((id) => document.getElementById(id));

const view = {
  account: null,
  isOperator: false,
  /** Shows a message, for screen readers too, and refreshes the view. */
  report(text, bad = false) {
    say(text, bad);
    return show();
  },
  /** Goes to another address and says why. */
  leaveTo(hash, text) {
    pending = text;
    location.hash = hash;
  },
  /** Runs an action and shows its error. */
  async run(work) {
    try { await work(); } catch (error) { say(error.message, true); }
  },
};

/** A message to show in the view that comes next. */
let pending = "";

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decodeURIComponent), query: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

function built() {
  const { parts: [name, id], query } = route();
  switch (name) {
    case "webhooks": return id ? webhooks.one(view, Number(id)) : webhooks.list(view, query);
    case "deliveries": return deliveries(view, query);
    case "dead": return letters(view, query);
    case "find": return find(view, query);
    case "events": return event(view, id);
    case "unowned": return unowned(query);
    default: return overview(view);
  }
}

let shown = 0;

/** Shows the view of the address. The newest call wins, however late an older one ends. A refresh gives way to somebody
 * who began to work in the view meanwhile. */
async function show(isRefresh = false) {
  const mine = ++shown;
  const [name] = route().parts;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${name ?? ""}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  let parts;
  try {
    parts = await built();
  } catch (error) {
    if (error.status === 401) return;
    parts = [element("h1", {}, error.status === 404 ? "Not found" : "That did not work"), element("p", { className: "problem", role: "alert" }, error.message)];
  }
  if (mine !== shown || !key.value() || (isRefresh && isInUse())) return;
  main.replaceChildren(...parts.flat().filter(Boolean));
  document.title = `${main.querySelector("h1")?.textContent ?? "wabahook"} - wabahook`;
}

/** Whether somebody works in the view, so that it stays as it is. */
function isInUse() {
  const focused = document.activeElement;
  return document.querySelector("dialog") || (focused !== main && main.contains(focused))
    || main.querySelector("input:checked") || !getSelection().isCollapsed;
}

const refresh = () => (key.value() && !isInUse() ? show(true) : null);

let session = new AbortController();

/** Refreshes the view after notices of the host, and the overview, whose figures have no notices, regularly. */
async function follow() {
  session.abort();
  const { signal } = session = new AbortController();
  let due = null;
  const timer = setInterval(() => { if (route().parts.length === 0) refresh(); }, OVERVIEW_EVERY_MS);
  signal.addEventListener("abort", () => { clearInterval(timer); clearTimeout(due); });
  while (!signal.aborted) {
    try {
      await notices(signal, () => { due ??= setTimeout(() => { due = null; refresh(); }, REFRESH_AFTER_MS); });
    } catch { /* the next try is later */ }
    await new Promise((resolve) => setTimeout(resolve, OVERVIEW_EVERY_MS));
  }
}

/** A choice of the account to look at, for the operator. */
async function accountChoice() {
  const { items } = await get("/admin/accounts?limit=1000");
  const choice = element("select", { "aria-label": "Account" },
    [["", "all accounts"], ...items.map((item) => [item.id, item.name])].map(([value, text]) => element("option", { value }, text)));
  choice.addEventListener("change", () => view.run(async () => {
    scope.account = choice.value || null;
    view.account = scope.account ? await get("/account") : null;
    forget();
    follow();
    await show();
  }));
  return choice;
}

async function enter() {
  scope.account = null;
  try {
    view.account = await get("/account");
    view.isOperator = false;
    who.replaceChildren(view.account.name);
  } catch (error) {
    // The operator has no account.
    if (error.field !== "account") throw error;
    view.account = null;
    view.isOperator = true;
    who.replaceChildren(await accountChoice());
  }
  document.getElementById("unowned-link").hidden = !view.isOperator;
  signinPage.hidden = true;
  shell.hidden = false;
  say("");
  await show();
  follow();
}

function leave(why = "") {
  key.forget();
  forget();
  session.abort();
  shown += 1;
  main.replaceChildren();
  who.replaceChildren();
  closeDialogs();
  shell.hidden = true;
  signinPage.hidden = false;
  document.getElementById("signin-problem").textContent = why;
  document.title = "wabahook";
  document.getElementById("key").focus();
}

signin.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
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
search.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const text = document.getElementById("search-text").value.trim();
  if (text) location.hash = searchFor(text);
});
document.getElementById("signout").addEventListener("click", () => leave());
document.addEventListener("signed-out", (told) => { if (!shell.hidden) leave(told.detail); });
document.addEventListener("figures", (told) => add(told.detail));
for (const use of ["pointerdown", "keydown", "wheel"]) document.addEventListener(use, () => key.used(), { passive: true });
setInterval(() => { if (key.isIdle()) leave("Signed out, because the page was not used for a while."); }, IDLE_CHECK_MS);
window.addEventListener("hashchange", () => {
  closeDialogs();
  say(pending);
  pending = "";
  if (!key.value()) return;
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
leave();
