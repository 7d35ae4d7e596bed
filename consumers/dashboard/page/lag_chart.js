// The lag of each secondary over time. The scale is logarithmic: a second and an hour are both seen.

import { ask } from "./ask.js";
import { colour, el, svg } from "./elements.js";
import { both, duration, utc } from "./format.js";

const LEFT = 56;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 26;
const HEIGHT = 190;
const TICKS = [0, 1, 10, 60, 600, 3600, 36000, 86400, 864000];
const RELOAD_MS = 15000;
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "10 4"];

export class LagChart {
  constructor(store, volume) {
    this.store = store;
    this.volume = volume;
    this.sites = [];
    this.span = "hour";
    this.loadedAt = -Infinity;
    this.plot = el("div", { class: "plot lag-plot" });
    this.legend = el("ul", { class: "legend" });
    this.note = el("p", { class: "muted small-text" });
    this.choice = el("select", { "aria-label": "Time of the lag chart", onchange: (event) => { this.span = event.target.value; this.draw(); } },
      el("option", { value: "hour" }, "the last hour"), el("option", { value: "day" }, "the last day"));
    this.element = el("section", { class: "card", "aria-labelledby": "lag-title" },
      el("div", { class: "card-head" }, el("h2", { id: "lag-title" }, "Lag over time"), this.choice),
      this.plot, this.legend, this.note);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.plot);
    this.onTheme = () => this.draw();
    document.addEventListener("themechange", this.onTheme);
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("themechange", this.onTheme);
  }

  setSites(sites) {
    if (sites.join() === this.sites.join()) return;
    this.sites = sites;
    this.load();
  }

  tick() {
    if (this.sites.length && performance.now() - this.loadedAt > RELOAD_MS) this.load();
  }

  async load() {
    this.loadedAt = performance.now();
    const query = new URLSearchParams(this.sites.map((site) => ["site", site]));
    try {
      this.data = (await ask(this.volume, "lag", query)).sites;
      this.draw();
    } catch {
      // The banner says that the dashboard doesn't answer.
    }
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!this.data || width < 100) return;
    const series = this.sites.map((site) => ({ site, ...this.data[site]?.[this.span] })).filter((one) => one.last_at_us != null);
    const values = series.flatMap((one) => one.lag_s.filter((lag) => lag != null));
    const top = Math.max(10, ...values) * 1.1;
    const scale = (lag) => Math.log1p(lag * 10);
    const y = (lag) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale(lag) / scale(top));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": this.words(series) });
    for (const tick of TICKS.filter((one) => one <= top)) {
      picture.append(
        svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }),
        svg("text", { x: LEFT - 8, y: y(tick) + 4, class: "tick end" }, duration(tick)));
    }
    if (series.length) this.drawSeries(picture, series, width, y);
    this.plot.replaceChildren(picture);
    this.legend.replaceChildren(...series.map((one, index) => {
      const last = one.lag_s.findLast((lag) => lag != null);
      const mark = svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, ...stroke(index) }));
      return el("li", {}, mark, ` ${one.site}${last == null ? ": unknown" : ""}`);
    }));
    const known = series.some((one) => one.lag_s.some((lag) => lag != null));
    this.note.textContent = known
      ? "A gap: nobody knows. A line of dots: at least so long. What was before this dashboard started isn't known."
      : "Nothing is known yet: a value is taken every 15 s while the dashboard runs.";
  }

  drawSeries(picture, series, width, y) {
    const { step_s: step, last_at_us: end, lag_s: lags } = series[0];
    const x = (index) => LEFT + ((width - LEFT - RIGHT) * index) / (lags.length - 1);
    series.forEach((one, index) => {
      const bounds = new Set(one.at_least);
      for (const atLeast of [false, true]) {
        const path = pathOf(one.lag_s, (place) => bounds.has(place) === atLeast, x, y);
        if (path) picture.append(svg("path", { d: path, class: "lag-line", ...stroke(index), ...(atLeast ? { "stroke-dasharray": "1 4" } : {}) }));
      }
    });
    const first = end - (lags.length - 1) * step * 1e6;
    const ticks = width < 480 ? 3 : 5;
    for (let tick = 0; tick < ticks; tick += 1) {
      const share = tick / (ticks - 1);
      const at = first + (end - first) * share;
      const label = svg("text", { x: LEFT + (width - LEFT - RIGHT) * share, y: HEIGHT - 8, class: `tick ${tick === 0 ? "" : tick === ticks - 1 ? "end" : "middle"}` }, `${utc(at).slice(11, 16)}Z`);
      label.append(svg("title", {}, both(at)));
      picture.append(label);
    }
  }

  words(series) {
    const parts = series.map((one) => {
      const known = one.lag_s.filter((lag) => lag != null);
      if (known.length === 0) return `${one.site}: unknown`;
      return `${one.site}: now ${duration(known.at(-1))}, at most ${duration(Math.max(...known))}`;
    });
    return `Lag over ${this.span === "hour" ? "the last hour" : "the last day"}. ${parts.join("; ")}`;
  }
}

function stroke(index) {
  return { stroke: colour(`--line-${(index % 6) + 1}`), "stroke-dasharray": DASHES[index % DASHES.length], "stroke-width": 2, fill: "none" };
}

function pathOf(lags, isWanted, x, y) {
  let path = "";
  let isOpen = false;
  lags.forEach((lag, index) => {
    if (lag == null || !isWanted(index)) {
      isOpen = false;
      return;
    }
    path += `${isOpen ? "L" : "M"}${x(index).toFixed(1)} ${y(lag).toFixed(1)}`;
    if (!isOpen) path += "h0.1";
    isOpen = true;
  });
  return path;
}
