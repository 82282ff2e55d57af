// Builds the page from elements and texts, never from markup, so that a hostile name or payload is shown
// and does not run.

import { queryOf } from "./api.js";

/** An element with properties, handlers (`onclick`) and children; texts become text nodes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null));
  return made;
}

/** The same in SVG. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A word with a colour; the word alone says it too. */
export const word = (text, tone) => element("span", { className: `word ${tone}` }, text);

/** Names and values. */
export function facts(pairs) {
  return element("dl", { className: "facts" }, pairs.flatMap(([name, value]) => [
    element("dt", {}, name), element("dd", {}, value),
  ]));
}

/** A table whose rows become blocks on a phone. One that is wider than the page is scrolled, also from the keyboard. */
export function table(columns, rows) {
  const head = element("tr", {}, columns.map((column) => element("th", { scope: "col" }, column)));
  const body = rows.map((cells) => element("tr", {}, cells.map((cell, place) =>
    element("td", { "data-name": columns[place], className: cell === "" ? "none" : "" }, cell instanceof Node ? cell : element("span", {}, String(cell))))));
  return element("div", { className: "table", tabindex: "0", role: "group", "aria-label": `table of ${columns.join(", ")}` },
    element("table", { className: "stack" }, element("thead", {}, head), element("tbody", {}, body)));
}

/** A choice of values; `change` is called with the new one. */
export function select(label, name, values, chosen, change) {
  const input = element("select", { name, "aria-label": label },
    values.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
  if (change) input.addEventListener("change", () => change(input.value));
  return input;
}

/** A text to filter by; `change` is called with the new one. */
export function textFilter(label, name, value, change) {
  const input = element("input", { type: "search", name, "aria-label": label, placeholder: label, value: value ?? "", spellcheck: "false", autocomplete: "off" });
  input.addEventListener("change", () => change(input.value.trim()));
  return input;
}

/** A date and time to filter by, of this browser's time zone; `change` is called with the new one in UTC. */
export function timeFilter(label, name, value, change) {
  const input = element("input", { type: "datetime-local", name, "aria-label": label, title: label, value: value ? localTime(new Date(value)) : "" });
  input.addEventListener("change", () => change(input.value ? new Date(input.value).toISOString() : ""));
  return element("label", { className: "inline" }, label, input);
}

const two = (value) => String(value).padStart(2, "0");
const localTime = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`;

/** Links to the first and the next page of a list. */
export function more(route, query, cursor) {
  const to = (text, place) => element("a", { href: `#/${route}?${queryOf({ ...query, cursor: place })}` }, text);
  const links = [query.cursor ? to("First page", "") : null, cursor ? to("Next page", cursor) : null].filter(Boolean);
  return links.length ? element("nav", { className: "actions", "aria-label": "Pages" }, links) : null;
}

/** Sets parameters of the address, and begins at the first page again. */
export const setAll = (route, query, values) => { location.hash = `#/${route}?${queryOf({ ...query, ...values, cursor: "" })}`; };

/** The same for one parameter. */
export const setter = (route, query) => (name) => (value) => setAll(route, query, { [name]: value });

/** The text of an empty list. */
export const empty = (text) => element("p", { className: "empty" }, text);

/** A dialog. The browser gives the focus back to where it was. */
export function dialog(title, fill) {
  const made = element("dialog", { "aria-label": title }, element("h1", {}, title));
  made.addEventListener("close", () => made.remove());
  made.append(...[fill(() => made.close())].flat());
  document.body.append(made);
  made.showModal();
  return made;
}

/** Closes what stands over the view. */
export const closeDialogs = () => document.querySelectorAll("dialog").forEach((open) => open.close());

/** Asks before an action that cannot be undone. Resolves to whether it was confirmed. */
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const made = dialog(title, (close) => [
      element("p", {}, text),
      element("div", { className: "actions" },
        element("button", { type: "button", className: "danger", onclick: () => { answer = true; close(); } }, verb),
        element("button", { type: "button", autofocus: true, onclick: close }, "Cancel")),
    ]);
    made.addEventListener("close", () => resolve(answer));
  });
}

const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1_000, "s"]];

/** A span of milliseconds in its largest unit. */
export function span(ms) {
  const unit = units.find(([size]) => ms >= size);
  return unit ? `${Math.floor(ms / unit[0])} ${unit[1]}` : `${Math.round(ms)} ms`;
}

const clock = (at) => at.toLocaleTimeString("en-GB");
const day = (at) => at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: at.getFullYear() === new Date().getFullYear() ? undefined : "numeric" });

/** The time of today, or a short date and time, with the full one in its title. */
export function time(text) {
  if (!text) return "";
  const at = new Date(text);
  const isToday = at.toDateString() === new Date().toDateString();
  return element("time", { datetime: text, title: text }, isToday ? clock(at) : `${day(at)}, ${clock(at)}`);
}

/** A number of things in words. */
export const counted = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

export const count = (value) => Number(value).toLocaleString("en");
