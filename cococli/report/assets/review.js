/* Playback, edits, search and live updates: what the page does where a server shows it (`coca review`). */
"use strict";

const server = page.server; // {editable, search, map, first: {title, hits} or null}
let stamp = 0; // of the newest change that the page has
let scores = new Map(); // id -> score of the search that is shown

// Records

/** Ask the server. Errors become messages; returns {status, ...body}, or null if there is no answer. */
async function ask(path, method = "GET", body = undefined) {
  const json = body !== undefined && !(body instanceof Blob);
  const headers = json ? { "content-type": "application/json" } : {};
  try {
    // What is saved while the page is closed is saved.
    const options = { method, headers, body: json ? JSON.stringify(body) : body, keepalive: method === "PUT" };
    const response = await fetch(path, options);
    const answer = await response.json();
    if (!response.ok && response.status !== 409) tell(answer.error);
    return { ...answer, status: response.status };
  } catch {
    tell("The server does not answer: is coca review still running?");
    return null;
  }
}

function take({ records, complete, stamp: newest }) {
  stamp = newest;
  if (complete) store.load(records);
  const added = [];
  for (const record of complete ? [] : records) {
    const known = store.get(record.id);
    if (!known) added.push(record);
    // An edit of this page comes back, too.
    else if (known.version !== record.version || known.caption !== record.caption) store.update(record.id, record);
  }
  if (added.length) store.add(added);
  countEdits();
}

async function refresh() {
  const changes = await ask(`records?after=${stamp}`);
  if (changes?.status === 200) take(changes);
}

function listen() {
  const events = new EventSource(`events?after=${stamp}`);
  events.addEventListener("message", ({ data }) => take(JSON.parse(data)));
  events.addEventListener("problem", ({ data }) => tell(JSON.parse(data)));
}

const notice = element("p", { id: "notice", role: "alert", hidden: true });
document.body.append(notice);
let hiding = 0;

function tell(text) {
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (notice.hidden = true), 8000);
}

// Edits

const saves = new Map(); // id of a record -> promise of its last save

/**
 * Save an edit of a record as it was when the edit began; return the status of the answer. If another tab edited it
 * meanwhile, its verdict is kept under a new caption. Where both changed the caption, the user decides.
 */
function save(record, base, changes) {
  const saving = send(record, base, changes);
  saves.set(record.id, saving);
  return saving;
}

/** Save a change to what the last one of this page leads to. */
async function saveNext(record, changes) {
  await saves.get(record.id);
  return save(record, baseOf(record), changes);
}

async function send(record, base, changes) {
  if (isFailure(record) || !server.editable) return 0;
  const { caption, verdict } = { ...base, ...changes };
  const answer = await ask(`records/${record.id}`, "PUT", { version: base.version, correction: caption, verdict });
  const current = answer?.record;
  if (!current) return 0;
  store.update(record.id, current);
  countEdits();
  if (answer.status === 409) {
    if ("caption" in changes && current.caption === base.caption) return send(record, baseOf(current), changes);
    const what = "caption" in changes ? `Enter replaces that by “${caption ?? current.original}”.` : "Look again.";
    tell(`Edited in another tab, to “${current.caption}”. ${what}`);
  }
  return answer.status;
}

const baseOf = ({ version, caption, verdict }) => ({ version, caption, verdict });

async function judge(record, verdict) {
  if (!record || isFailure(record)) return;
  // The next key is for the next record, however long the server takes.
  if (store.selected === record) view === "videos" ? moveSegment(1) : move(1);
  if (record.verdict === verdict || (await saveNext(record, { verdict })) === 200) announce(verdict);
}

let update = () => {}; // shows what changed of the record in the panel

/** Make the caption in the panel editable, and return what stands below it. */
function makeEditor(record, caption) {
  caption.contentEditable = "plaintext-only";
  for (const [name, value] of Object.entries({ role: "textbox", "aria-label": "Caption", title: "Click to edit (e)" })) {
    caption.setAttribute(name, value);
  }
  let base = baseOf(record);
  caption.addEventListener("focus", () => (base = baseOf(record)));
  caption.addEventListener("blur", async () => {
    const text = caption.textContent.trim();
    if (text === base.caption) return update();
    if ((await save(record, base, { caption: text })) === 200 || store.selected !== record) return;
    const again = byId("detail-body").querySelector("p.caption");
    again.textContent = text;
    again.focus();
  });
  caption.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") caption.textContent = base.caption;
    caption.blur();
    grids.cards.elementOf(record)?.focus({ preventScroll: true });
  });

  const said = element("bdi");
  const revert = element("button", {}, "Revert");
  revert.addEventListener("click", () => saveNext(record, { caption: null }));
  const original = element("p", { class: "original" }, "The model said: ", said, " ", revert);
  const button = (verdict, label, key) => {
    const made = element("button", { class: verdict }, label, " ", element("kbd", {}, key));
    made.addEventListener("click", () => {
      if (record.verdict !== verdict) judge(record, verdict);
      else saveNext(record, { verdict: null });
    });
    return made;
  };
  const verdicts = [button("accepted", "Accept", "a"), button("rejected", "Reject", "r")];
  update = () => {
    if (document.activeElement !== caption) caption.textContent = record.caption;
    original.hidden = record.caption === record.original;
    said.textContent = record.original;
    for (const made of verdicts) made.setAttribute("aria-pressed", made.className === record.verdict);
  };
  update();
  return [original, element("div", { class: "verdicts" }, ...verdicts)];
}

store.addEventListener("record", ({ detail: record }) => record === store.selected && update());

hooks.card.push((record, card) => {
  const edited = record.original !== undefined && record.caption !== record.original;
  const words = [edited ? "corrected" : "", record.verdict ?? ""].filter(Boolean);
  if (words.length) {
    card.classList.add(...words);
    card.append(element("span", { class: "badge state" }, words.join(", ")));
    card.setAttribute("aria-label", `${describe(record)}, ${words.join(", ")}`);
  }
  if (scores.has(record.id)) {
    const match = element("span", { class: "score" }, "match ", element("b", {}, formatScore(scores.get(record.id))));
    card.querySelector(".scores")?.prepend(match);
  }
});

hooks.detail.push((record, body) => {
  if (isFailure(record)) return;
  const film = body.firstElementChild;
  if (record.end > 0 && record.media) {
    const src = `${record.media}#t=${record.start},${record.end}`;
    const poster = record.thumbnails[0]?.src ?? null;
    const video = element("video", { src, poster, controls: true, preload: "metadata", loop: false });
    // Browsers play fewer formats than coca reads.
    video.addEventListener("error", () => video.replaceWith(film));
    film.replaceWith(video);
  }
  if (!server.editable) return;
  const caption = body.querySelector("p.caption");
  caption.after(...makeEditor(record, caption));
});

function editCaption(record) {
  if (!record || isFailure(record)) return;
  openDetails(record);
  const caption = byId("detail-body").querySelector("p.caption");
  caption.focus();
  getSelection().selectAllChildren(caption);
}

function play() {
  const video = byId("detail-body").querySelector("video");
  if (video) video.paused ? video.play() : video.pause();
}

hooks.keys.set("p", { help: "play or pause the video", run: (record) => (record && openIfClosed(record), play()) });
if (server.editable) {
  hooks.keys.set("a", { help: "accept the caption", run: (record) => judge(record, "accepted") });
  hooks.keys.set("r", { help: "reject the caption", run: (record) => judge(record, "rejected") });
  hooks.keys.set("e", { help: "edit the caption", run: editCaption });
}

function openIfClosed(record) {
  if (byId("detail").hidden) openDetails(record);
}

// Search

function showHits(hits, what) {
  scores = new Map(hits.map(({ id, score }) => [id, score]));
  filter.value = "";
  byId("sort").value = "order";
  Object.values(grids).forEach((grid) => grid.redraw());
  store.show({ text: "", sort: "order", cluster: null, failuresFirst: false, ranking: hits.map(({ id }) => id) });
  scrollTo({ top: 0 });
  announce(`${hits.length} matches of ${what}`);
}

store.addEventListener("view", () => {
  if (store.view.ranking || !scores.size) return;
  scores = new Map();
  Object.values(grids).forEach((grid) => grid.redraw());
});

async function search(wanted, what) {
  document.body.classList.add("searching");
  const answer = await ask("search", "POST", wanted);
  document.body.classList.remove("searching");
  if (answer?.status !== 200) return;
  if (answer.hits.some(({ id }) => !store.get(id))) await refresh();
  showHits(answer.hits, what);
}

function addSearch() {
  const box = element("input", {
    id: "search",
    type: "search",
    placeholder: "Search by sentence, or drop a picture",
    "aria-label": "Search by sentence, or drop a picture",
    autocomplete: "off",
  });
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") box.blur();
    if (event.key === "Enter" && box.value.trim()) search({ query: box.value }, box.value);
  });
  box.addEventListener("search", () => box.value || store.show({ ranking: null })); // its × was clicked
  const file = element("input", { type: "file", accept: "image/*,video/*", id: "search-file", hidden: true });
  const button = element("button", { "aria-label": "Search by a picture", title: "Search by a picture" }, "Picture…");
  button.addEventListener("click", () => file.click());
  file.addEventListener("change", () => file.files[0] && searchFile(file.files[0]));
  byId("tools").append(box, button, file);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files[0]) searchFile(event.dataTransfer.files[0]);
  });
  hooks.keys.set("s", { help: "search by sentence", run: () => box.focus() });
  return box;
}

function searchFile(file) {
  byId("search").value = "";
  search(file.slice(0, file.size, "application/octet-stream"), file.name);
}

// Map

let positions = null; // as the server sent them
let outdated = true; // other records than when it did

store.addEventListener("records", () => {
  outdated = true;
  if (positions) map.set(positions); // the records may be other objects now
});

hooks.map = async () => {
  if (!server.map || !outdated) return;
  outdated = false;
  announce("Placing the records");
  const answer = await ask("map");
  outdated ||= answer?.status !== 200;
  if (answer?.status !== 200) return;
  positions = answer;
  setMap(positions);
  announce(`${map.points.length} records on the map`);
  redraw();
};

// Export

const FORMS = { csv: "CSV", json: "COCO JSON", folder: "sidecars: a .txt beside each file" };

function addExport() {
  const dialog = element("dialog", { id: "export-dialog", "aria-labelledby": "export-title" });
  const result = element("p", { role: "status" });
  const buttons = Object.entries(FORMS).map(([form, label]) => {
    const button = element("button", { type: "button", "data-form": form }, label);
    button.addEventListener("click", async () => {
      const answer = await ask("export", "POST", { form });
      if (answer?.status !== 200) return dialog.close();
      result.replaceChildren(
        `${answer.count} ${answer.count === 1 ? "caption" : "captions"} written to `,
        element("bdi", {}, answer.path),
        element("code", {}, answer.command),
      );
    });
    return button;
  });
  dialog.append(
    element("h2", { id: "export-title" }, "Export corrected and accepted captions"),
    element("div", { class: "choices" }, ...buttons),
    result,
    element("form", { method: "dialog" }, element("button", {}, "Close")),
  );
  document.body.append(dialog);
  const open = element("button", { id: "export" }, "Export");
  open.addEventListener("click", () => (result.replaceChildren(), dialog.showModal()));
  byId("tools").append(open);
}

function countEdits() {
  const button = byId("export");
  if (!button) return;
  const edited = store.records.filter(
    ({ verdict, caption, original }) => verdict !== "rejected" && (verdict || caption !== original),
  ).length;
  button.textContent = edited ? `Export ${edited.toLocaleString("en")}` : "Export";
  button.disabled = !edited;
}

// Start

const searchBox = server.search ? addSearch() : null;
if (server.editable) addExport();
refresh().then(() => {
  countEdits();
  if (server.first) {
    if (searchBox) searchBox.value = server.first.query;
    showHits(server.first.hits, server.first.query);
  }
  listen();
});
