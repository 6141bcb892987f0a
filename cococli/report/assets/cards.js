/* Elements of records: cards, thumbnails, scores and timelines. Texts of records only ever become text nodes. */
"use strict";

const TEXT_HEIGHT = 118; // pixels of a card below its pictures

/** Make an element; strings among the children become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function formatTime(seconds) {
  const tenths = Math.round(seconds * 10);
  const [hours, minutes, rest] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, (tenths % 600) / 10];
  const tail = rest.toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

const formatSpan = (record) => (record.end > 0 ? `${formatTime(record.start)} – ${formatTime(record.end)}` : "");
const formatScore = (score) => (score == null ? "–" : score.toFixed(3).replace("-0.000", "0.000").replace("-", "−"));
const fileName = (video) => video.slice(video.lastIndexOf("/") + 1);
const describe = (record) =>
  [record.caption ?? record.error, fileName(record.video), formatSpan(record)].filter(Boolean).join(", ");

function makeThumbnails(record, count = 4) {
  const shown = (record.thumbnails ?? []).slice(0, count);
  if (!shown.length) {
    const why = isFailure(record) ? "cannot be read" : "no preview";
    return element("div", { class: "frames none" }, element("span", {}, why));
  }
  const images = shown.map(({ src }) => element("img", { src, alt: "", decoding: "async", draggable: "false" }));
  return element("div", { class: `frames of-${images.length}` }, ...images);
}

function makeScores(record) {
  const score = (name, value) => element("span", { class: "score" }, `${name} `, element("b", {}, formatScore(value)));
  return element("div", { class: "scores" }, score("similarity", record.similarity), score("log-prob", record.logprob));
}

function makeCard(record) {
  const failed = isFailure(record);
  const card = element(
    "article",
    { class: `card${failed ? " failed" : ""}${record.weak ? " weak" : ""}`, "aria-label": describe(record) },
    makeThumbnails(record),
    element("p", { class: "caption", dir: "auto" }, failed ? record.error : record.caption),
    element(
      "div",
      { class: "source" },
      element("bdi", { class: "name", title: record.video }, fileName(record.video)),
      element("span", { class: "span" }, failed ? "failed" : formatSpan(record)),
    ),
    failed ? null : makeScores(record),
  );
  if (record.weak) card.append(element("span", { class: "badge" }, "weak"));
  for (const extend of hooks.card) extend(record, card);
  return card;
}

/** Draw the segments of a video to scale. The one at the pointer is previewed, a click selects it. */
function makeTimeline(records, open) {
  const spans = records.filter((record) => !isFailure(record));
  const length = Math.max(...spans.map((record) => record.end), 0) || 1;
  const line = element("div", { class: "timeline" });
  const marks = new Map();
  for (const record of spans) {
    const mark = element("span", { class: record.weak ? "segment weak" : "segment" });
    mark.style.left = `${(100 * record.start) / length}%`;
    mark.style.width = `${Math.max((100 * ((record.end || 1) - record.start)) / length, 0)}%`;
    mark.style.setProperty("--level", `${Math.round(100 * level(record))}%`);
    mark.classList.toggle("selected", record === store.selected);
    marks.set(mark, record);
    line.append(mark);
  }
  line.addEventListener("pointermove", (event) => preview.show(marks.get(event.target), event));
  line.addEventListener("pointerleave", () => preview.hide());
  line.addEventListener("click", (event) => {
    if (marks.has(event.target)) open(marks.get(event.target));
    event.stopPropagation();
  });
  return line;
}

/** Return where the similarity of a record lies between the lowest and the highest, from 0 to 1. */
function level(record) {
  const { low, high } = scales.similarity;
  return record.similarity == null || high === low ? 0.5 : (record.similarity - low) / (high - low);
}

function makeVideoRow(video, open) {
  const records = store.videos.get(video);
  const failed = records.find(isFailure);
  const last = records.at(-1);
  const count = records.length === 1 ? "1 caption" : `${records.length} segments`;
  const facts = failed ? failed.error : last.end > 0 ? `${count}, ${formatTime(last.end)}` : "picture";
  return element(
    "article",
    { class: `video${failed ? " failed" : ""}`, "aria-label": `${fileName(video)}, ${facts}` },
    makeThumbnails(records[0], 1),
    element(
      "div",
      { class: "lines" },
      element("div", { class: "source" }, element("bdi", { class: "name", title: video }, video), element("span", {}, facts)),
      failed ? null : makeTimeline(records, open),
    ),
  );
}

/** A card that floats at the pointer. */
const preview = {
  box: document.getElementById("preview"),
  record: null,
  show(record, event) {
    if (!record) return this.hide();
    if (record !== this.record) {
      this.box.replaceChildren(
        makeThumbnails(record),
        element("p", { class: "caption", dir: "auto" }, record.caption ?? record.error),
        element("div", { class: "source" }, element("bdi", { class: "name" }, fileName(record.video)), formatSpan(record)),
      );
      this.record = record;
      this.box.hidden = false;
    }
    const { width, height } = this.box.getBoundingClientRect();
    const left = Math.min(event.clientX + 16, innerWidth - width - 8);
    const below = event.clientY + 16 + height < innerHeight;
    this.box.style.left = `${Math.max(8, left)}px`;
    this.box.style.top = `${Math.max(8, below ? event.clientY + 16 : event.clientY - height - 16)}px`;
  },
  hide() {
    this.box.hidden = true;
    this.record = null;
  },
};
