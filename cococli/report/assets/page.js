/*
 * The page: views, the bar on top, the panel with details, and the keyboard.
 *
 * The files of this folder are plain scripts that share their top-level names. `page.py` puts them into one HTML file,
 * in this order: store.js, cards.js, list.js, charts.js, map.js, page.js, and review.js if a server shows the page.
 *
 * Data: `page` is {title, records, map, server}.
 *   records  the lines of JSONL, each with `id` (of any type; unique) and `thumbnails`: [{time, src}], src a data: URI or,
 *            from a server, a URL. With a server `records` is empty here, and comes from /api/records as a JSON array.
 *   map      null or {method, points: [[id, x, y, cluster]], clusters: [{label, x, y, count}]}
 *   server   null, or what the server passes to `page.render(server=...)`, such as {token}
 *
 * What review.js can use:
 *   store.load(records), store.add(records), store.update(id, fields), store.get(id), store.records, store.shown
 *   store.show({text, sort, failuresFirst, cluster, ranking}): filter and sort; `ranking` is an array of ids, best first
 *   store.select(record), store.selected; openDetails(record), closeDetails()
 *   store.addEventListener: "records" (all changed), "record" (detail: one changed), "view" (shown ones changed),
 *     "select" (detail: the record or null)
 *   hooks.card: functions (record, element) that extend a card, whose height is fixed
 *   hooks.detail: functions (record, element) that extend the panel with details each time it is filled
 *   hooks.map: function that is called when the map opens; setMap(map)
 *   hooks.keys: Map of event.key to {help, run(record)}; `run` gets the selected record, or null. They also fill the help.
 *   document.getElementById("tools"): the place for more buttons in the bar
 *   element(tag, attributes, ...children): strings become text, never HTML; announce(text): tell screen readers and eyes
 */
"use strict";

const hooks = { card: [], detail: [], keys: new Map(), map: null };
const byId = (id) => document.getElementById(id);
const grids = {
  cards: new VirtualGrid(byId("cards"), {
    make: makeCard,
    minimum: 264,
    height: (width) => (width * 9) / 16 + TEXT_HEIGHT,
  }),
  videos: new VirtualGrid(byId("videos"), {
    make: (video) => makeVideoRow(video, openDetails),
    minimum: 4000,
    height: () => 76,
    gap: 10,
  }),
};
const map = new EmbeddingMap(byId("map").querySelector("canvas"), openDetails);
let view = "cards";

// Views

function showView(name) {
  view = name;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-pressed", button.dataset.view === name);
  }
  for (const id of ["cards", "videos", "map"]) byId(id).hidden = id !== name;
  redraw();
  if (name === "map") hooks.map?.();
}

function setMap(found) {
  map.set(found);
  byId("method").textContent = found.method;
}

function redraw() {
  const { shown, records } = store;
  byId("empty").hidden = shown.length > 0;
  byId("empty").textContent = records.length ? "Nothing matches." : "No records.";
  const failures = records.filter(isFailure).length;
  const number = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const parts = [number(records.length, "record"), number(store.videos.size, "file")];
  if (failures) parts.push(`${failures.toLocaleString("en")} failed`);
  if (shown.length !== records.length) parts.unshift(`${shown.length.toLocaleString("en")} shown of`);
  byId("count").textContent = parts.join(" · ").replace("of · ", "of ");
  if (view === "cards") grids.cards.set(shown);
  if (view === "videos") grids.videos.set([...new Set(shown.map((record) => record.video))]);
  if (view === "map") map.draw();
  drawScores();
  drawClusters();
}

function drawScores() {
  if (byId("scores").open) document.querySelectorAll("#scores figure").forEach(drawHistogram);
}

function drawClusters() {
  if (view !== "map") return;
  const chips = map.clusters.map((cluster, index) => {
    const pressed = store.view.cluster === index;
    const chip = element("button", { class: `chip cluster-${index % 8}`, "aria-pressed": String(pressed) });
    chip.append(element("span", { dir: "auto" }, cluster.label), element("small", {}, String(cluster.count)));
    chip.addEventListener("click", () => {
      store.show({ cluster: pressed ? null : index });
      byId("clusters").children[index].focus();
    });
    return chip;
  });
  byId("clusters").replaceChildren(...chips);
}

// Details

let opener = null; // what had the focus before the panel

function openDetails(record) {
  const panel = byId("detail");
  if (panel.hidden) opener = document.activeElement;
  document.body.classList.add("detailed");
  panel.hidden = false;
  preview.hide();
  store.select(record);
  fillDetails();
  if (matchMedia("(max-width: 700px)").matches) byId("close").focus(); // it covers the rest
}

function closeDetails() {
  byId("detail").hidden = true;
  document.body.classList.remove("detailed");
  const list = view === "cards" && store.selected ? grids.cards.elementOf(store.selected) : null;
  (list ?? opener)?.focus?.({ preventScroll: true });
}

function fillDetails() {
  const record = store.selected;
  if (!record || byId("detail").hidden) return;
  const failed = isFailure(record);
  const frames = (record.thumbnails ?? []).map(({ time, src }) =>
    element(
      "figure",
      {},
      element("img", { src, alt: `Frame at ${formatTime(time)}` }),
      record.end > 0 ? element("figcaption", {}, formatTime(time)) : null,
    ),
  );
  const facts = [
    ["File", element("bdi", {}, record.video)],
    ["Time", formatSpan(record)],
    ["Similarity", failed ? "" : formatScore(record.similarity)],
    ["Log-probability", failed ? "" : formatScore(record.logprob)],
    ["Frames", (record.frames ?? []).length > 1 ? record.frames.map(formatTime).join(", ") : ""],
    ["Model", record.model ?? ""],
  ].filter(([, value]) => value !== "");
  const body = byId("detail-body");
  body.replaceChildren(
    frames.length
      ? element("div", { class: `film${frames.length === 1 ? " single" : ""}` }, ...frames)
      : makeThumbnails(record),
    element("p", { class: failed ? "caption error" : "caption", dir: "auto" }, failed ? record.error : record.caption),
    element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
  );
  const others = store.videos.get(record.video);
  if (others.length > 1) {
    const place = others.indexOf(record) + 1;
    body.append(element("h2", {}, `Segment ${place} of ${others.length}`), makeTimeline(others, openDetails));
  }
  if (record.candidates?.length) {
    const rows = record.candidates.map((one) =>
      element("li", {}, element("span", { dir: "auto" }, one.caption), element("small", {}, formatScore(one.similarity))),
    );
    body.append(element("h2", {}, "Candidates"), element("ol", {}, ...rows));
  }
  for (const extend of hooks.detail) extend(record, body);
}

function announce(text) {
  byId("status").textContent = text;
}

// Selection

function move(change) {
  const { shown, selected } = store;
  if (!shown.length) return;
  const at = selected ? shown.indexOf(selected) : -1;
  store.select(shown[destination(at, change, shown.length)]);
}

/** Return where a move leads: from nowhere to the first, or as far as Home and End go. */
function destination(at, change, length) {
  const wanted = at < 0 && Number.isFinite(change) ? 0 : at + change;
  return Math.min(Math.max(wanted, 0), length - 1);
}

/** In the list of videos, arrows up and down change the video, left and right the segment. */
function moveVideo(change) {
  const videos = grids.videos.items;
  const at = store.selected ? videos.indexOf(store.selected.video) : -1;
  const video = videos[destination(at, change, videos.length)];
  if (video !== undefined) store.select(store.videos.get(video)[0]);
}

function moveSegment(change) {
  const own = store.selected ? store.videos.get(store.selected.video) : [];
  const next = own[own.indexOf(store.selected) + change];
  if (next) store.select(next);
}

function arrow(key) {
  const pageRows = Math.max(1, Math.floor(innerHeight / (grids[view]?.rowHeight ?? innerHeight)));
  const sideways = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const rows = { ArrowUp: -1, ArrowDown: 1, PageUp: -pageRows, PageDown: pageRows, Home: -Infinity, End: Infinity }[key];
  if (view === "videos") return sideways ? moveSegment(sideways) : moveVideo(rows);
  return move(sideways ?? rows * grids.cards.columns);
}

store.addEventListener("records", updateScales);
store.addEventListener("records", () => Object.values(grids).forEach((grid) => grid.redraw()));
store.addEventListener("view", redraw);
store.addEventListener("record", ({ detail: record }) => {
  grids.cards.redraw(record);
  grids.videos.redraw(record.video);
  const editing = document.activeElement.closest("#detail :is(input, textarea, [contenteditable])");
  if (record === store.selected && !editing) fillDetails();
});
store.addEventListener("select", ({ detail: record }) => {
  drawScores();
  fillDetails();
  if (!record) return;
  if (view === "cards") grids.cards.focus(record);
  if (view === "videos") {
    grids.videos.redraw(record.video);
    grids.videos.focus(record.video);
  }
  if (view === "map") map.draw();
  if (view !== "cards") announce(describe(record));
});

// Bar and keyboard

const filter = byId("filter");
filter.addEventListener("input", () => store.show({ text: filter.value }));
filter.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "ArrowDown") {
    event.preventDefault();
    event.stopPropagation();
    if (view === "map") byId("map").querySelector("canvas").focus();
    else arrow("Home");
  }
});
byId("sort").addEventListener("change", ({ target }) => store.show({ sort: target.value }));
byId("failures").addEventListener("change", ({ target }) => store.show({ failuresFirst: target.checked }));
byId("scores").addEventListener("toggle", drawScores);
byId("close").addEventListener("click", closeDetails);
byId("theme").addEventListener("click", () => toggleTheme());
byId("help").addEventListener("click", () => showHelp());
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => showView(button.dataset.view));
}
for (const id of ["cards", "videos"]) {
  byId(id).addEventListener("click", (event) => {
    const item = event.target.closest("article")?.item;
    if (item === undefined || event.target.closest("button, a, input, textarea, video, [contenteditable]")) return;
    openDetails(id === "cards" ? item : store.videos.get(item)[0]);
  });
}

const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End"];
const KEYS = new Map([
  ["/", { help: "filter", run: () => filter.focus() }],
  ["Enter", { help: "open details", run: (record) => record && openDetails(record) }],
  ["Escape", { help: "close details, clear the filter", run: escape }],
  ["f", { help: "failures first", run: () => byId("failures").click() }],
  ["1", { help: "cards", run: () => showView("cards") }],
  ["2", { help: "videos with their timelines", run: () => showView("videos") }],
  ...(page.map || page.server?.map ? [["3", { help: "map", run: () => showView("map") }]] : []),
  ["t", { help: "light or dark", run: () => toggleTheme() }],
  ["?", { help: "this list", run: () => showHelp() }],
]);

addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && target === filter) filter.blur();
  else if (target.closest("input:not([type=checkbox]), select, textarea, video, [contenteditable]")) return;
  if (event.key === "Enter" && target.closest("button, a, summary")) return;
  const key = hooks.keys.get(event.key) ?? KEYS.get(event.key);
  if (key) {
    event.preventDefault();
    key.run(store.selected);
  } else if (ARROWS.includes(event.key) && view !== "map") {
    event.preventDefault();
    arrow(event.key);
  }
});

function escape() {
  if (!byId("detail").hidden) return closeDetails();
  filter.value = "";
  store.show({ text: "", cluster: null, ranking: null });
}

function showHelp() {
  const rows = [["← → ↑ ↓", { help: "move" }], ...hooks.keys, ...KEYS];
  byId("keys").replaceChildren(
    ...rows.flatMap(([key, { help }]) => [
      element("dt", {}, element("kbd", {}, key)),
      element("dd", {}, help),
    ]),
  );
  byId("help-dialog").showModal();
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  map.draw();
}

// Start

if (page.server) byId("count").textContent = "loading";
byId("scores").open = innerWidth > 700;
document.querySelector("[data-view=map]").hidden = !(page.map || page.server?.map);
store.load(page.records);
if (page.map) setMap(page.map);
