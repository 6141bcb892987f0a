/* Histograms of the scores: all records, and in front those that are shown. */
"use strict";

const BINS = 32;
const scales = { similarity: { low: 0, high: 1 }, logprob: { low: -1, high: 0 } };

function updateScales() {
  for (const name of Object.keys(scales)) {
    let [low, high] = [Infinity, -Infinity];
    for (const record of store.records) {
      const value = record[name];
      if (value == null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    scales[name] = low <= high ? { low, high } : { low: 0, high: 0 };
  }
}

function countBins(records, name) {
  const { low, high } = scales[name];
  const bins = new Array(BINS).fill(0);
  for (const record of records) {
    if (record[name] != null) bins[binOf(record[name], low, high)]++;
  }
  return bins;
}

const binOf = (value, low, high) => Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS));

function drawHistogram(figure) {
  const name = figure.dataset.score;
  const { low, high } = scales[name];
  const [all, shown] = [countBins(store.records, name), countBins(store.shown, name)];
  const most = Math.max(...all, 1);
  const chart = svg("svg", { viewBox: `0 0 ${BINS * 4} 40`, preserveAspectRatio: "none", role: "img" });
  const total = shown.reduce((sum, count) => sum + count, 0);
  const label = figure.querySelector("figcaption").textContent;
  chart.setAttribute("aria-label", `${label} of ${total} records, from ${formatScore(low)} to ${formatScore(high)}`);
  const selected = store.selected?.[name] == null ? -1 : binOf(store.selected[name], low, high);
  for (const [kind, bins] of [["all", all], ["shown", shown]]) {
    bins.forEach((count, bin) => {
      const height = count ? Math.max(1, (40 * count) / most) : 0;
      const mark = kind === "shown" && bin === selected ? `${kind} selected` : kind;
      chart.append(svg("rect", { class: mark, x: bin * 4, y: 40 - height, width: 3.2, height }));
    });
  }
  figure.querySelector(".chart").replaceChildren(chart);
  const [least, greatest] = figure.querySelectorAll(".scale span");
  [least.textContent, greatest.textContent] = [formatScore(low), formatScore(high)];
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
