// The live charts: events accepted, deliveries and failed attempts per second, and owed deliveries, over
// the last five minutes of this tab.

import { element, shape, count } from "./dom.js";

const SPAN_S = 300;
const samples = [];

/** Adds a reading of the counters. */
export function add(stats) {
  const failed = stats.retried + stats.dead;
  samples.push({ at: performance.now() / 1000, accepted: stats.accepted, delivered: stats.delivered, failed, owed: stats.owed });
  while (samples.length > 2 && samples[0].at < samples.at(-1).at - SPAN_S) samples.shift();
}

/** Removes all readings, for another account. */
export const forget = () => samples.splice(0);

function rates(name) {
  return samples.slice(1).map((sample, index) => {
    const before = samples[index];
    // A restarted host counts from zero.
    return [sample.at, Math.max(0, sample[name] - before[name]) / Math.max(0.001, sample.at - before.at)];
  });
}

const levels = (name) => samples.map((sample) => [sample.at, sample[name]]);

function path(points, from, most) {
  return points.map(([at, value], index) => {
    const x = ((at - from) / SPAN_S) * 300;
    const y = 92 - (value / most) * 84;
    return `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  }).join("");
}

function chart(title, lines) {
  const from = (samples.at(-1)?.at ?? 0) - SPAN_S;
  const most = Math.max(1, ...lines.flatMap((line) => line.points.map(([, value]) => value)));
  const drawn = shape("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img", "aria-label": title },
    shape("line", { x1: 0, x2: 300, y1: 92, y2: 92, class: "axis" }),
    shape("line", { x1: 0, x2: 300, y1: 8, y2: 8, class: "axis" }),
    ...lines.map((line) => shape("path", { d: path(line.points, from, most), class: `line ${line.tone}` })));
  const keys = lines.map((line) => element("span", { className: "key" },
    shape("svg", { viewBox: "0 0 20 6", "aria-hidden": "true" }, shape("path", { d: "M0 3L20 3", class: `line ${line.tone}` })),
    `${line.name} ${shown(line.points.at(-1)?.[1] ?? 0)}`));
  return element("section", { className: "card chart" },
    element("div", { className: "head" }, element("h2", {}, title), element("span", { className: "hint" }, `maximum ${shown(most)}`)),
    drawn, element("div", {}, keys), element("p", { className: "hint" }, "last 5 minutes"));
}

const shown = (value) => (value >= 100 ? count(Math.round(value)) : count(Math.round(value * 10) / 10));

export function charts() {
  return element("div", { className: "charts" },
    chart("Per second", [
      { name: "accepted", tone: "accepted", points: rates("accepted") },
      { name: "delivered", tone: "delivered", points: rates("delivered") },
      { name: "failed attempts", tone: "failed", points: rates("failed") },
    ]),
    chart("Backlog", [{ name: "owed", tone: "owed", points: levels("owed") }]));
}

/** A few attempts are drawn as narrow bars, too. */
const BARS_MIN = 40;

/** The time of each recent attempt, oldest first: failed ones have the colour of a failure and a dashed outline. */
export function attemptChart(attempts) {
  const most = Math.max(1, ...attempts.map((attempt) => attempt.took_ms));
  const failed = attempts.filter((attempt) => attempt.outcome !== "delivered").length;
  const width = 300 / Math.max(attempts.length, BARS_MIN);
  const bars = [...attempts].reverse().map((attempt, place) => {
    const height = Math.max(2, (attempt.took_ms / most) * 84);
    const tone = attempt.outcome === "delivered" ? "delivered" : "failed";
    return shape("rect", { x: (place * width).toFixed(2), y: (92 - height).toFixed(2), width: Math.max(0.5, width - 1).toFixed(2), height: height.toFixed(2), class: `bar-${tone}` });
  });
  const title = `Latency of the last ${attempts.length} attempts, ${failed} of them failed`;
  return element("section", { className: "card chart small" },
    element("div", { className: "head" }, element("h2", {}, title), element("span", { className: "hint" }, `maximum ${most} ms`)),
    shape("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img", "aria-label": title }, shape("line", { x1: 0, x2: 300, y1: 92, y2: 92, class: "axis" }), ...bars));
}
