// The map: volumes down, sites to the right. Only the rows that are seen are in the document, so
// 10,000 volumes cost as much as forty.

import { badge, el, setBadge, setText } from "./elements.js";
import {
  HEALTHS, HEALTH_WORDS, MEANINGS, UNKNOWN, WORDS, count, duration, lag, percent, severity, size, stateWord,
} from "./format.js";

const OVERSCAN = 6;
const COPYING = new Set(["RESYNCING", "GAP", "INITIAL"]);
const SORTS = {
  attention: "what needs attention first",
  name: "name",
  lag: "longest lag first",
  behind: "most behind first",
};

export class MapPage {
  constructor(store, parent) {
    this.store = store;
    this.title = "Volumes";
    this.rows = [];
    this.shown = new Map();
    this.sites = [];
    this.healths = new Set();
    this.build(parent);
    this.listeners = [
      [store, "change", (event) => this.onChange(event.detail)],
      [store, "looked", () => this.tick()],
      [window, "resize", () => this.render()],
      [document, "keydown", (event) => this.onKey(event)],
    ];
    for (const [target, name, listener] of this.listeners) target.addEventListener(name, listener);
    this.refresh();
  }

  close() {
    for (const [target, name, listener] of this.listeners) target.removeEventListener(name, listener);
  }

  build(parent) {
    this.search = el("input", {
      type: "search", id: "search", placeholder: "Find a volume", autocomplete: "off", spellcheck: "false",
      "aria-label": "Find volumes by a part of their names", oninput: () => this.refresh(true),
    });
    this.siteChoice = el("select", { id: "site-choice", "aria-label": "Sites", onchange: () => this.refresh(true) });
    this.stateChoice = el("select", { id: "state-choice", "aria-label": "State", onchange: () => this.refresh(true) },
      el("option", { value: "" }, "any state"),
      ...Object.entries(WORDS).map(([state, word]) => el("option", { value: state }, word)));
    this.sort = el("select", { id: "sort", "aria-label": "Order", onchange: () => this.refresh(true) },
      ...Object.entries(SORTS).map(([name, text]) => el("option", { value: name }, text)));
    this.healthButtons = new Map(HEALTHS.map((health) => [health, this.healthButton(health)]));
    this.countLine = el("p", { class: "count-line", role: "status", id: "count-line" });
    this.headRow = el("tr", { role: "row", "aria-rowindex": "1" });
    this.above = el("tr", { class: "spacer", role: "presentation" }, el("td", { role: "presentation" }));
    this.below = el("tr", { class: "spacer", role: "presentation" }, el("td", { role: "presentation" }));
    this.body = el("tbody", { role: "rowgroup" }, this.above, this.below);
    this.table = el("table", { class: "map", role: "table", "aria-label": "Volumes and their secondaries at each site" },
      el("thead", { role: "rowgroup" }, this.headRow), this.body);
    this.empty = el("p", { class: "empty", hidden: true });
    this.scroll = el("div", {
      class: "map-scroll", id: "map-scroll", tabindex: "0", role: "region", "aria-label": "Map of volumes and sites",
      onscroll: () => this.renderSoon(),
    }, this.table, this.empty);
    parent.append(
      el("h1", { class: "visually-hidden" }, "Volumes"),
      el("div", { class: "map-bar" },
        el("div", { class: "healths", role: "group", "aria-label": "Show volumes that are" }, ...this.healthButtons.values()),
        el("div", { class: "choices" }, this.search, this.siteChoice, this.stateChoice, this.sort)),
      this.countLine,
      this.scroll,
    );
  }

  healthButton(health) {
    return el("button", {
      type: "button", class: "health-button", "aria-pressed": "false", "data-health": health,
      onclick: (event) => {
        if (!this.healths.delete(health)) this.healths.add(health);
        event.currentTarget.setAttribute("aria-pressed", String(this.healths.has(health)));
        this.refresh(true);
      },
    }, badge(health), el("b", { class: "number" }, "–"), el("span", {}, HEALTH_WORDS[health]));
  }

  onChange(kinds) {
    if (kinds.has("volume") || kinds.has("site")) this.refresh();
  }

  onKey(event) {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      this.search.focus();
    }
    const row = document.activeElement?.closest?.("tr[data-index]");
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (row && step !== undefined && this.scroll.contains(row)) {
      event.preventDefault();
      this.focusRow(Math.min(this.rows.length - 1, Math.max(0, Number(row.dataset.index) + step)));
    }
  }

  focusRow(index) {
    const top = index * this.rowHeight;
    const room = this.scroll.clientHeight - this.headRow.offsetHeight;
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top + this.rowHeight > this.scroll.scrollTop + room) this.scroll.scrollTop = top + this.rowHeight - room;
    this.render();
    this.shown.get(this.rows[index]?.volume)?.link.focus({ preventScroll: true });
  }

  /** Choose and order the rows. fromTop: the user asked for other rows. */
  refresh(fromTop = false) {
    const { store } = this;
    const allSites = [...store.of("site").keys()].sort();
    this.setSites(allSites);
    const words = this.search.value.trim().toLowerCase();
    const state = this.stateChoice.value;
    const counts = Object.fromEntries(HEALTHS.map((health) => [health, 0]));
    const rows = [];
    for (const volume of store.of("volume").values()) {
      if (volume.state === "RETIRED" && !words) continue;
      if (words && !volume.volume.toLowerCase().includes(words)) continue;
      const cells = this.sites.map((site) => volume.sites[site]);
      if (state && !cells.some((cell) => cell && (cell.state ?? "UNKNOWN") === state)) continue;
      const health = this.worst(cells);
      counts[health] += 1;
      if (this.healths.size && !this.healths.has(health)) continue;
      rows.push({ volume: volume.volume, fields: volume, health });
    }
    for (const [health, button] of this.healthButtons) setText(button.querySelector(".number"), count(counts[health]));
    this.rows = this.ordered(rows);
    const total = store.of("volume").size;
    setText(this.countLine, store.isLoaded
      ? `${count(rows.length)} of ${count(total)} volumes at ${count(this.sites.length)} site${this.sites.length === 1 ? "" : "s"}`
      : "Reading the topics…");
    this.empty.hidden = !store.isLoaded || rows.length > 0;
    setText(this.empty, total ? "No volume is like that." : "There is no volume yet. `mirrorlog volume create` makes one.");
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    if (fromTop) this.scroll.scrollTop = 0;
    this.render();
  }

  worst(cells) {
    let worst = null;
    for (const cell of cells) {
      if (cell && (worst === null || severity(cell.health) > severity(worst))) worst = cell.health;
    }
    return worst ?? "WARNING"; // no site mirrors it
  }

  ordered(rows) {
    const now = this.store.nowUs();
    const byName = (a, b) => (a.volume < b.volume ? -1 : a.volume > b.volume ? 1 : 0);
    const longest = (row) => Math.max(...this.sites.map((site) => (row.fields.sites[site] ? lag(row.fields.sites[site], now)[1] ?? -1 : -1)), -1);
    const most = (row) => Math.max(...this.sites.map((site) => row.fields.sites[site]?.behind_bytes ?? -1), -1);
    const key = { attention: (row) => severity(row.health), lag: longest, behind: most }[this.sort.value];
    if (key === undefined) return rows.sort(byName);
    for (const row of rows) row.key = key(row);
    return rows.sort((a, b) => b.key - a.key || byName(a, b));
  }

  setSites(all) {
    const chosen = this.siteChoice.value;
    if (this.siteChoice.dataset.all !== all.join()) {
      this.siteChoice.dataset.all = all.join();
      this.siteChoice.replaceChildren(el("option", { value: "" }, "all sites"), ...all.map((site) => el("option", { value: site }, site)));
      this.siteChoice.value = all.includes(chosen) ? chosen : "";
    }
    const sites = this.siteChoice.value ? [this.siteChoice.value] : all;
    if (sites.join() !== this.sites.join()) {
      this.sites = sites;
      for (const row of this.shown.values()) row.element.remove();
      this.shown.clear();
      this.scroll.style.setProperty("--sites", String(Math.max(1, sites.length)));
      this.table.setAttribute("aria-colcount", String(sites.length + 1));
    }
    this.showHead();
  }

  showHead() {
    const marks = this.sites.map((site) => {
      const fields = this.store.one("site", site);
      return `${site} ${fields?.life} ${fields?.health}`;
    }).join();
    if (this.headRow.dataset.marks === marks) return;
    this.headRow.dataset.marks = marks;
    this.headRow.replaceChildren(
      el("th", { role: "columnheader", scope: "col", class: "name" }, "Volume"),
      ...this.sites.map((site) => {
        const fields = this.store.one("site", site) ?? {};
        const life = (fields.life ?? UNKNOWN).toLowerCase();
        return el("th", { role: "columnheader", scope: "col", title: fields.reason ?? `the site is ${life}` },
          badge(fields.health), el("span", { class: "site-name" }, site), el("span", { class: "life" }, life));
      }));
  }

  get rowHeight() {
    return Number.parseFloat(getComputedStyle(this.scroll).getPropertyValue("--row")) || 48;
  }

  renderSoon() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  /** Put the rows that are seen into the document, and take all others out. */
  render() {
    const height = this.rowHeight;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / height) - OVERSCAN);
    const last = Math.min(this.rows.length, Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / height) + OVERSCAN);
    const seen = this.rows.slice(first, last);
    const names = new Set(seen.map((row) => row.volume));
    for (const [name, row] of this.shown) {
      if (!names.has(name)) {
        row.element.remove();
        this.shown.delete(name);
      }
    }
    let before = this.above;
    seen.forEach((data, offset) => {
      let row = this.shown.get(data.volume);
      if (row === undefined) {
        row = new Row(data.volume, this.sites);
        this.shown.set(data.volume, row);
      }
      if (before.nextSibling !== row.element) before.after(row.element);
      before = row.element;
      row.show(data, first + offset, this.store.nowUs());
    });
    setHeight(this.above, first * height);
    setHeight(this.below, (this.rows.length - last) * height);
  }

  tick() {
    const now = this.store.nowUs();
    for (const row of this.shown.values()) row.tick(now);
    if (!this.store.isLoaded || this.countLine.textContent.startsWith("Reading")) this.refresh();
  }
}

function setHeight(spacer, height) {
  spacer.firstChild.style.height = `${Math.max(0, height)}px`;
  spacer.hidden = height <= 0;
}

class Row {
  constructor(name, sites) {
    this.link = el("a", { href: `#/volume/${encodeURIComponent(name)}` }, name);
    this.about = el("span", { class: "about" });
    this.cells = sites.map((site) => new Cell(site));
    this.element = el("tr", { role: "row" },
      el("th", { role: "rowheader", scope: "row", class: "name" }, this.link, this.about),
      ...this.cells.map((cell) => cell.element));
  }

  show(data, index, now) {
    this.element.dataset.index = index;
    this.element.setAttribute("aria-rowindex", String(index + 2));
    const { fields } = data;
    const about = [fields.size_bytes == null ? null : size(fields.size_bytes), fields.group ? `group ${fields.group}` : null,
      fields.state && fields.state !== "ACTIVE" ? fields.state.toLowerCase() : null];
    setText(this.about, about.filter(Boolean).join(" · "));
    for (const cell of this.cells) cell.show(fields.sites[cell.site], now);
  }

  tick(now) {
    for (const cell of this.cells) cell.tick(now);
  }
}

class Cell {
  constructor(site) {
    this.site = site;
    this.sign = el("span", { class: "badge", "aria-hidden": "true" });
    this.word = el("span", { class: "word" });
    this.lag = el("span", { class: "lag" });
    this.more = el("span", { class: "more" });
    this.bar = el("i");
    this.track = el("span", { class: "track", "aria-hidden": "true" }, this.bar);
    this.element = el("td", { role: "cell" },
      el("span", { class: "line" }, this.sign, this.word, this.lag), this.track, this.more);
  }

  show(fields, now) {
    this.fields = fields;
    this.element.dataset.site = this.site;
    if (!fields) {
      setBadge(this.sign, "UNKNOWN");
      setText(this.word, "–");
      setText(this.lag, "");
      setText(this.more, "");
      this.track.hidden = true;
      return;
    }
    this.element.dataset.state = fields.state ?? "";
    setBadge(this.sign, fields.health);
    setText(this.word, stateWord(fields));
    const runs = COPYING.has(fields.state) && fields.in_sync_fraction != null;
    this.track.hidden = !runs;
    if (runs) this.bar.style.width = `${fields.in_sync_fraction * 100}%`;
    this.tick(now);
  }

  tick(now) {
    const { fields } = this;
    if (!fields) return;
    const [text] = lag(fields, now);
    const known = text !== UNKNOWN;
    setText(this.lag, known ? text : "");
    setText(this.more, this.details(fields, now));
    const sign = HEALTH_WORDS[fields.health ?? "UNKNOWN"];
    const meaning = MEANINGS[fields.state];
    const lines = [`${this.site}: ${stateWord(fields)}${meaning ? ` (${meaning})` : ""}; ${sign}`, `lag ${text}`, fields.reason, fields.next_action];
    const title = lines.filter(Boolean).join("\n");
    if (this.element.title !== title) this.element.title = title;
  }

  details(fields, now) {
    if (fields.verification?.state === "RUNNING") {
      const { reached_bytes: reached, size_bytes: whole } = fields.verification;
      return `verifying, ${percent(whole ? reached / whole : null)}`;
    }
    if (fields.state == null && fields.reported_state) {
      const ago = now == null || fields.reported_at_us == null ? "" : ` ${duration((now - fields.reported_at_us) / 1e6)} ago`;
      return `was ${(WORDS[fields.reported_state] ?? fields.reported_state).toLowerCase()}${ago}`;
    }
    if (fields.rate_bytes_s != null && fields.in_sync_fraction != null) {
      return `${percent(fields.in_sync_fraction)}, ${size(fields.rate_bytes_s)}/s`;
    }
    if (fields.behind_bytes) return `${size(fields.behind_bytes)} behind`;
    if (fields.behind_bytes === 0) return "lacks nothing";
    return fields.reason ?? "";
  }
}
