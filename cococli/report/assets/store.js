/* Records, and which of them are shown in which order. */
"use strict";

const page = JSON.parse(document.getElementById("coca-data").textContent);
const collator = new Intl.Collator(undefined, { numeric: true });

const byNumber = (field, sign) => (one, other) => {
  const [a, b] = [one[field], other[field]];
  if (a == null || b == null) return (a == null) - (b == null); // those without a score come last
  return sign * (a - b);
};
const byName = (one, other) => collator.compare(one.video, other.video) || byNumber("start", 1)(one, other);

const ORDERS = {
  order: () => 0,
  name: byName,
  time: (one, other) => byNumber("start", 1)(one, other) || byName(one, other),
  "similarity-up": byNumber("similarity", 1),
  "similarity-down": byNumber("similarity", -1),
  "logprob-up": byNumber("logprob", 1),
  "logprob-down": byNumber("logprob", -1),
};

const isFailure = (record) => record.status === "error";

class Store extends EventTarget {
  records = []; // all, in the order of the file
  videos = new Map(); // name -> its records in order of time
  shown = []; // those that pass the filters, in the chosen order
  selected = null; // record
  view = { text: "", sort: "order", failuresFirst: false, cluster: null, ranking: null };
  #byId = new Map();
  #texts = new WeakMap();

  load(records) {
    this.records = records;
    this.#index();
  }

  add(records) {
    this.records = this.records.concat(records);
    this.#index();
  }

  update(id, fields) {
    const record = Object.assign(this.#byId.get(id), fields);
    this.#texts.delete(record);
    this.#emit("record", record);
  }

  get(id) {
    return this.#byId.get(id);
  }

  /** Change filters or order, as in `show({text: "dog"})`. A ranking is an array of ids, best first, or null. */
  show(view) {
    Object.assign(this.view, view);
    const { text, sort, failuresFirst, cluster, ranking } = this.view;
    const words = fold(text).split(/\s+/).filter(Boolean);
    let shown = ranking ? ranking.map((id) => this.#byId.get(id)).filter(Boolean) : [...this.records];
    if (words.length) shown = shown.filter((record) => words.every((word) => this.#text(record).includes(word)));
    if (cluster !== null) shown = shown.filter((record) => record.cluster === cluster);
    if (!ranking || sort !== "order") shown.sort(ORDERS[sort]);
    if (failuresFirst) shown.sort((one, other) => isFailure(other) - isFailure(one));
    this.shown = shown;
    this.#emit("view");
  }

  select(record) {
    this.selected = record;
    this.#emit("select", record);
  }

  #index() {
    this.#byId = new Map(this.records.map((record) => [record.id, record]));
    this.videos = Map.groupBy(this.records, (record) => record.video);
    for (const own of this.videos.values()) own.sort(byNumber("start", 1));
    if (this.selected) this.selected = this.get(this.selected.id) ?? null;
    this.#emit("records");
    this.show({});
  }

  #text(record) {
    if (!this.#texts.has(record)) {
      this.#texts.set(record, fold([record.caption, record.video, record.error].filter(Boolean).join("\n")));
    }
    return this.#texts.get(record);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Fold case and accents, so that "cafe" finds "Café". */
function fold(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

const store = new Store();
