// Writes by range and time, and the two times that are picked on it.

import { ask } from "./ask.js";
import { colour, el, setText, table } from "./elements.js";
import { both, count, duration, size, utc } from "./format.js";

const SPANS = { "15min": 900, "1h": 3600, "6h": 21600, "1d": 86400, "7d": 604800, "30d": 2592000 };
const SPAN_WORDS = { "15min": "15 minutes", "1h": "hour", "6h": "6 hours", "1d": "day", "7d": "7 days", "30d": "30 days" };
const LEVELS = 8;
const HEIGHT = 260;

export class HeatMap {
  constructor(volume, store, onPick) {
    this.volume = volume;
    this.store = store;
    this.onPick = onPick;
    this.isStarted = false;
    this.picked = null;
    this.choice = el("select", { id: "heat-span", "aria-label": "Time of the heat map", onchange: () => this.load() },
      ...Object.keys(SPANS).map((span) => el("option", { value: span, selected: span === "1h" }, `the last ${SPAN_WORDS[span]}`)));
    this.reload = el("button", { type: "button", onclick: () => this.load() }, "Read again");
    this.canvas = el("canvas", { id: "heat", role: "img" });
    this.before = el("div", { class: "shade" });
    this.after = el("div", { class: "shade" });
    this.from = this.handle("From");
    this.to = this.handle("To");
    this.tip = el("p", { class: "tip", "aria-hidden": "true" });
    this.plot = el("div", { class: "heat-plot" }, this.canvas, this.before, this.after, this.from, this.to);
    this.addresses = el("div", { class: "addresses", "aria-hidden": "true" });
    this.times = el("div", { class: "times", "aria-hidden": "true" });
    this.note = el("p", { class: "muted small-text", role: "status" });
    this.legend = el("div", { class: "heat-legend" });
    this.busiest = el("details", {}, el("summary", {}, "The busiest cells as a table"));
    this.element = el("section", { class: "card", "aria-labelledby": "heat-title" },
      el("div", { class: "card-head" }, el("h2", { id: "heat-title" }, "Writes by address and time"),
        el("div", { class: "card-tools" }, this.choice, this.reload)),
      el("p", { class: "muted small-text" }, "Time goes to the right, addresses go down. Drag over it, or move the two handles, to pick two times."),
      el("div", { class: "heat-grid" }, this.addresses, this.plot, this.times),
      this.tip, this.legend, this.note, this.busiest);
    this.listenToPointer();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.plot);
    this.onTheme = () => this.draw();
    document.addEventListener("themechange", this.onTheme);
    this.abort = null;
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("themechange", this.onTheme);
    this.abort?.abort();
  }

  start() {
    if (this.isStarted || this.store.nowUs() == null) return;
    this.isStarted = true;
    this.load();
  }

  tick() {
    if (!this.isStarted && this.store.one("volume", this.volume)) this.start();
  }

  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    const until = Math.round(this.store.nowUs());
    const since = until - SPANS[this.choice.value] * 1e6;
    setText(this.note, "Reading the commands…");
    const query = new URLSearchParams({ since: iso(since), until: iso(until) });
    try {
      this.data = await ask(this.volume, "heat", query, this.abort.signal);
      this.since = since;
      this.until = until;
      this.showWords();
      if (this.picked === null) this.pick(until - (until - since) / 4, until);
      this.draw();
    } catch (error) {
      if (error.name !== "AbortError") setText(this.note, error.message);
    }
  }

  showWords() {
    const { data } = this;
    const writes = data.cells.reduce((sum, cell) => sum + cell[2], 0);
    const parts = [];
    parts.push(data.cells.length === 0 ? "No write in this time." : `A cell is ${size(data.range_bytes)} of the volume and ${duration(data.span_s)}.`);
    if (!data.is_whole) parts.push(`There was too much to read: the map ends at ${utc(data.reached_us)}.`);
    if (data.missing.length) parts.push("A part of this time isn't kept any more.");
    setText(this.note, parts.join(" "));
    this.canvas.setAttribute("aria-label", `Writes to ${this.volume} by address and time: ${count(writes)} in ${count(data.cells.length)} cells. ${parts.join(" ")}`);
    const top = [...data.cells].sort((a, b) => b[2] - a[2]).slice(0, 10);
    const rows = top.map(([range, span, number]) => [
      `${size(range * data.range_bytes)} – ${size(Math.min((range + 1) * data.range_bytes, data.size_bytes))}`,
      both(data.first_at_us + span * data.span_s * 1e6), count(number)]);
    this.busiest.replaceChildren(this.busiest.firstChild, table("Busiest cells", ["Addresses", "From", "Writes"], rows, "No write."));
  }

  draw() {
    const { data, canvas } = this;
    const width = this.plot.clientWidth;
    if (!data || width < 50) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(HEIGHT * ratio);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const most = data.cells.reduce((highest, cell) => Math.max(highest, cell[2]), 1);
    const colours = Array.from({ length: LEVELS }, (_, level) => colour(`--heat-${level + 1}`));
    const rowHeight = canvas.height / data.ranges;
    for (const [range, span, writes] of data.cells) {
      const at = data.first_at_us + span * data.span_s * 1e6;
      const left = this.share(at) * canvas.width;
      const right = this.share(at + data.span_s * 1e6) * canvas.width;
      context.fillStyle = colours[levelOf(writes, most)];
      const y = Math.floor(range * rowHeight);
      const x = Math.floor(Math.max(0, left));
      context.fillRect(x, y, Math.max(1, Math.ceil(Math.min(canvas.width, right)) - x - (ratio > 1 ? 1 : 0)), Math.max(1, Math.ceil((range + 1) * rowHeight) - y - (rowHeight > 3 ? 1 : 0)));
    }
    this.addresses.replaceChildren(...[0, 0.25, 0.5, 0.75].map((share) => label(size(share * data.size_bytes), "top", share)));
    const ticks = width < 420 ? 3 : 5;
    this.times.replaceChildren(...Array.from({ length: ticks }, (_, tick) => {
      const share = tick / (ticks - 1);
      const at = this.since + (this.until - this.since) * share;
      const text = this.until - this.since > 2 * 86400e6 ? utc(at).slice(5, 16) : utc(at).slice(11, 19);
      const node = label(`${text}Z`, "left", share);
      node.title = both(at);
      node.className = tick === 0 ? "" : tick === ticks - 1 ? "end" : "middle";
      return node;
    }));
    this.legend.replaceChildren(
      el("span", {}, "1 write "),
      ...colours.map((_, level) => el("i", { class: `level level-${level + 1}`, "aria-hidden": "true" })),
      el("span", {}, ` ${count(most)} writes`));
    this.showPicked();
  }

  share(us) {
    return (us - this.since) / (this.until - this.since);
  }

  // Picking two times

  handle(name) {
    return el("div", {
      class: "handle", role: "slider", tabindex: "0", "aria-label": `${name} (picked time)`, "aria-orientation": "horizontal", hidden: true,
      onkeydown: (event) => this.onHandleKey(event, name === "From" ? 0 : 1),
    });
  }

  onHandleKey(event, index) {
    if (!this.picked || !this.data) return;
    const step = Math.max(this.data.span_s * 1e6, (this.until - this.since) / 500) * (event.shiftKey ? 10 : 1);
    const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = [...this.picked];
    next[index] = this.clamp(next[index] + moves[event.key]);
    this.pick(Math.min(...next), Math.max(...next));
  }

  clamp(us) {
    return Math.min(this.until, Math.max(this.since, us));
  }

  listenToPointer() {
    let anchor = null;
    const timeAt = (event) => {
      const box = this.plot.getBoundingClientRect();
      return this.clamp(this.since + ((event.clientX - box.left) / box.width) * (this.until - this.since));
    };
    this.plot.addEventListener("pointerdown", (event) => {
      if (!this.data || event.button !== 0) return;
      const at = timeAt(event);
      const index = event.target === this.from ? 0 : event.target === this.to ? 1 : null;
      anchor = index === null ? at : this.picked[1 - index];
      this.plot.setPointerCapture(event.pointerId);
      if (index === null) this.isNew = true;
      event.preventDefault();
    });
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.data) return;
      this.showTip(event);
      if (anchor === null) return;
      const at = timeAt(event);
      if (this.isNew && Math.abs(this.share(at) - this.share(anchor)) < 0.005) return;
      this.isNew = false;
      this.setPicked(Math.min(anchor, at), Math.max(anchor, at));
    });
    const end = () => {
      if (anchor === null) return;
      anchor = null;
      if (!this.isNew && this.picked) this.onPick(...this.picked);
      this.isNew = false;
    };
    this.plot.addEventListener("pointerup", end);
    this.plot.addEventListener("pointercancel", end);
    this.plot.addEventListener("pointerleave", () => setText(this.tip, ""));
  }

  showTip(event) {
    const { data } = this;
    const box = this.plot.getBoundingClientRect();
    const range = Math.floor(((event.clientY - box.top) / box.height) * data.ranges);
    const at = this.since + ((event.clientX - box.left) / box.width) * (this.until - this.since);
    const span = data.first_at_us == null ? -1 : Math.floor((at - data.first_at_us) / (data.span_s * 1e6));
    const cell = data.cells.find((one) => one[0] === range && one[1] === span);
    setText(this.tip, `${both(Math.round(at))}, from ${size(Math.max(0, range) * data.range_bytes)}: ${cell ? count(cell[2]) : "no"} writes`);
  }

  /** Pick two times, and tell so. */
  pick(since, until) {
    this.setPicked(since, until);
    this.onPick(...this.picked);
  }

  /** Show two times that were picked, here or elsewhere. */
  setPicked(since, until) {
    this.picked = [Math.round(since), Math.round(until)];
    this.showPicked();
  }

  showPicked() {
    if (!this.picked || !this.data) return;
    const [from, to] = this.picked.map((us) => Math.min(1, Math.max(0, this.share(us))));
    this.from.hidden = this.to.hidden = false;
    this.before.style.left = "0";
    this.before.style.width = `${from * 100}%`;
    this.after.style.left = `${to * 100}%`;
    this.after.style.width = `${(1 - to) * 100}%`;
    [this.from, this.to].forEach((handle, index) => {
      handle.style.left = `${[from, to][index] * 100}%`;
      handle.setAttribute("aria-valuemin", String(Math.round(this.since / 1e6)));
      handle.setAttribute("aria-valuemax", String(Math.round(this.until / 1e6)));
      handle.setAttribute("aria-valuenow", String(Math.round(this.picked[index] / 1e6)));
      handle.setAttribute("aria-valuetext", both(this.picked[index]));
    });
  }
}

function label(text, side, share) {
  const node = el("span", {}, text);
  node.style[side] = `${share * 100}%`;
  return node;
}

/** As consumers/audit/heat_picture.py: by the logarithm of the writes. */
function levelOf(writes, most) {
  if (most <= 1) return LEVELS - 1;
  return Math.min(Math.floor((LEVELS * Math.log1p(writes - 1)) / Math.log1p(most - 1)), LEVELS - 1);
}

export function iso(us) {
  const date = new Date(Math.floor(us / 1000)).toISOString();
  return `${date.slice(0, 19)}.${String(Math.floor(us) % 1e6).padStart(6, "0")}Z`;
}
