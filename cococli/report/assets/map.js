/* A map of the embeddings on a canvas: zoom with the wheel, drag, hover for a preview, click to open. */
"use strict";

const NEAR = 14; // pixels from the pointer within which a point is found

class EmbeddingMap {
  clusters = []; // {label, x, y, count}
  points = []; // {record, x, y, cluster}, x and y from 0 to 1
  scale = 1;
  offset = [0, 0]; // of the map's origin, in pixels
  #placed = []; // {point, at, front}, as drawn last
  #drag = null;

  constructor(canvas, open) {
    Object.assign(this, { canvas, open });
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.#zoom(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointerleave", () => preview.hide());
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.#step(event));
  }

  set(map) {
    this.clusters = map.clusters;
    const points = map.points.map(([id, x, y, cluster]) => ({ record: store.get(id), x, y, cluster }));
    this.points = points.filter(({ record }) => record);
    for (const point of this.points) point.record.cluster = point.cluster;
  }

  reset() {
    [this.scale, this.offset] = [1, [0, 0]];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    Object.assign(canvas, { width: width * devicePixelRatio, height: height * devicePixelRatio });
    const context = canvas.getContext("2d");
    const colors = this.clusters.map((_, index) => this.#color(`--cluster-${index % 8}`));
    context.scale(devicePixelRatio, devicePixelRatio);
    const shown = new Set(store.shown);
    this.#placed = this.points.map((point) => ({ point, at: this.screen(point), front: shown.has(point.record) }));
    const radius = Math.min(6, 2.5 + 60 / Math.sqrt(this.points.length)) * Math.min(2, Math.sqrt(this.scale));
    for (const front of [false, true]) {
      context.globalAlpha = front ? 0.8 : 0.15;
      const groups = Map.groupBy(this.#placed.filter((one) => one.front === front), ({ point }) => point.cluster);
      for (const [cluster, own] of groups) {
        context.fillStyle = colors[cluster];
        context.beginPath();
        for (const { at: [x, y] } of own) {
          context.moveTo(x, y);
          context.arc(x, y, radius, 0, 7);
        }
        context.fill();
      }
    }
    context.globalAlpha = 1;
    const selected = this.points.find((point) => point.record === store.selected);
    if (selected) {
      const [x, y] = this.screen(selected);
      context.lineWidth = 2.5;
      context.strokeStyle = this.#color("--text");
      context.beginPath();
      context.arc(x, y, radius + 4, 0, 7);
      context.stroke();
    }
    this.#label(context);
  }

  /** Return what a color of the style sheet is in this theme. */
  #color(name) {
    this.canvas.style.color = `var(${name})`;
    return getComputedStyle(this.canvas).color;
  }

  #label(context) {
    const [text, halo] = [this.#color("--text"), this.#color("--surface")];
    context.font = `600 13px ${getComputedStyle(this.canvas).fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const taken = [];
    for (const cluster of this.clusters) {
      const [x, y] = this.screen(cluster);
      const half = context.measureText(cluster.label).width / 2 + 4;
      const left = Math.min(Math.max(x, half + 4), this.canvas.clientWidth - half - 4);
      const box = [left - half, y - 10, left + half, y + 10];
      if (taken.some((one) => one[0] < box[2] && box[0] < one[2] && one[1] < box[3] && box[1] < one[3])) continue;
      taken.push(box);
      context.lineWidth = 5;
      context.strokeStyle = halo;
      context.strokeText(cluster.label, left, y);
      context.fillStyle = text;
      context.fillText(cluster.label, left, y);
    }
  }

  screen({ x, y }) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const margin = 40;
    const at = (value, size, offset) => (margin + value * (size - 2 * margin)) * this.scale + offset;
    return [at(x, width, this.offset[0]), at(y, height, this.offset[1])];
  }

  #near(event) {
    let [best, least] = [null, NEAR ** 2];
    for (const { point, at: [x, y], front } of this.#placed) {
      const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (front && distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  #zoom(event) {
    event.preventDefault();
    const scale = Math.min(40, Math.max(1, this.scale * Math.exp(-event.deltaY / 400)));
    const ratio = scale / this.scale;
    this.offset = [event.offsetX, event.offsetY].map((at, axis) => at - (at - this.offset[axis]) * ratio);
    this.scale = scale;
    if (scale === 1) this.offset = [0, 0];
    this.draw();
  }

  #press(event) {
    this.#drag = { x: event.clientX, y: event.clientY, offset: this.offset, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    if (!this.#drag) {
      const near = this.#near(event);
      this.canvas.classList.toggle("over", near !== null);
      return preview.show(near?.record, event);
    }
    const [x, y] = [event.clientX - this.#drag.x, event.clientY - this.#drag.y];
    this.#drag.moved ||= Math.hypot(x, y) > 4;
    if (!this.#drag.moved) return;
    this.offset = [this.#drag.offset[0] + x, this.#drag.offset[1] + y];
    preview.hide();
    this.draw();
  }

  #release(event) {
    const near = this.#drag?.moved ? null : this.#near(event);
    this.#drag = null;
    if (near) this.open(near.record);
  }

  /** Select the nearest point in the direction of an arrow key. */
  #step(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    event.stopPropagation();
    const shown = this.#placed.filter(({ front }) => front);
    const from = shown.find(({ point }) => point.record === store.selected);
    if (!from) return shown.length && store.select(shown[0].point.record);
    let [best, least] = [null, Infinity];
    for (const { point, at } of shown) {
      const [dx, dy] = [at[0] - from.at[0], at[1] - from.at[1]];
      const [along, across] = [dx * direction[0] + dy * direction[1], Math.abs(dx * direction[1] + dy * direction[0])];
      if (along > 0.5 && across <= along && along + 2 * across < least) [best, least] = [point, along + 2 * across];
    }
    if (best) store.select(best.record);
  }
}
