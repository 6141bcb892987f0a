/* A virtual grid: of any number of items, only the elements near the screen exist. The window scrolls it. */
"use strict";

const OVERSCAN = 600; // pixels above and below the screen that are filled, too

class VirtualGrid {
  items = [];
  columns = 1;
  #elements = new Map(); // item -> element
  #scheduled = false;

  /**
   * @param box element that holds the items; it gets the height of all of them
   * @param make returns the element of an item
   * @param minimum least width of a column in pixels
   * @param height returns the height of a row for the width of a column
   */
  constructor(box, { make, minimum, height, gap = 16 }) {
    Object.assign(this, { box, make, minimum, height, gap });
    addEventListener("scroll", () => this.schedule(), { passive: true });
    new ResizeObserver(() => this.schedule()).observe(box);
  }

  /** Show items; those that were shown before keep their elements. */
  set(items) {
    this.items = items;
    this.schedule();
  }

  /** Make the element of an item anew, or those of all items. */
  redraw(item) {
    for (const [known, made] of item ? [[item, this.#elements.get(item)]] : [...this.#elements]) {
      made?.remove();
      this.#elements.delete(known);
    }
    this.schedule();
  }

  elementOf(item) {
    return this.#elements.get(item);
  }

  /** Scroll as little as needed to bring an item on screen, and focus it. */
  focus(item) {
    const index = this.items.indexOf(item);
    if (index < 0) return;
    this.draw();
    const top = this.#top + Math.floor(index / this.columns) * this.rowHeight;
    const bar = document.querySelector("header").offsetHeight + this.gap;
    if (top < scrollY + bar) scrollTo({ top: top - bar });
    else if (top + this.rowHeight > scrollY + innerHeight) scrollTo({ top: top + this.rowHeight - innerHeight });
    this.draw();
    this.elementOf(item)?.focus({ preventScroll: true });
  }

  schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.draw();
    });
  }

  get #top() {
    return this.box.getBoundingClientRect().top + scrollY;
  }

  draw() {
    const width = this.box.clientWidth;
    if (!width) return;
    this.columns = Math.max(1, Math.floor((width + this.gap) / (this.minimum + this.gap)));
    const column = (width - this.gap * (this.columns - 1)) / this.columns;
    const height = Math.round(this.height(column));
    this.rowHeight = height + this.gap;
    this.box.style.height = `${Math.ceil(this.items.length / this.columns) * this.rowHeight}px`;
    const top = scrollY - this.#top;
    const first = Math.max(0, Math.floor((top - OVERSCAN) / this.rowHeight)) * this.columns;
    const last = Math.min(
      this.items.length,
      Math.ceil((top + innerHeight + OVERSCAN) / this.rowHeight) * this.columns,
    );
    const wanted = new Map();
    for (let index = first; index < last; index++) wanted.set(this.items[index], index);
    const selected = this.items.indexOf(store.selected); // keeps the focus
    if (selected >= 0) wanted.set(store.selected, selected);
    for (const [item, made] of this.#elements) {
      if (!wanted.has(item)) {
        made.remove();
        this.#elements.delete(item);
      }
    }
    let before = null;
    for (const [item, index] of [...wanted].sort(([, one], [, other]) => one - other)) {
      let made = this.#elements.get(item);
      if (!made) {
        made = this.make(item);
        made.item = item;
        this.#elements.set(item, made);
      }
      // Tab follows the order of the elements.
      const place = before ? before.nextSibling : this.box.firstChild;
      if (made !== place) this.box.insertBefore(made, place);
      before = made;
      const [x, y] = [(index % this.columns) * (column + this.gap), Math.floor(index / this.columns) * this.rowHeight];
      Object.assign(made.style, { transform: `translate(${x}px, ${y}px)`, width: `${column}px`, height: `${height}px` });
      made.setAttribute("aria-posinset", index + 1);
      made.setAttribute("aria-setsize", this.items.length);
      made.tabIndex = item === (store.selected ?? this.items[0]) ? 0 : -1;
      made.classList.toggle("selected", item === store.selected);
    }
  }
}
