// What changed between the two times that are picked: a summary, a list of extents, downloads.

import { addressOf, ask } from "./ask.js";
import { colour, el, setText } from "./elements.js";
import { both, count, local, size, utc } from "./format.js";
import { iso } from "./heat_map.js";

const FORMATS = {
  json: "JSON (oVirt imageio)",
  csv: "CSV",
  "qemu-map": "qemu-img map",
  nbdinfo: "nbdinfo (dirty bitmap)",
  rbd: "rbd diff",
  ebs: "EBS changed blocks",
  extentlist: "nbdkit extentlist",
  ranges: "byte ranges",
};
const PAGE = 200;

export class Changes {
  constructor(volume) {
    this.volume = volume;
    this.onPick = () => {};
    this.since = this.until = null;
    this.from = this.timeField("changes-from", "From");
    this.to = this.timeField("changes-to", "To");
    this.ask = el("button", { type: "button", id: "changes-ask", class: "primary", onclick: () => this.load(0) }, "Show what changed");
    this.status = el("p", { role: "status", class: "changes-status", id: "changes-status" });
    this.strip = el("canvas", { class: "strip", role: "img", hidden: true });
    this.rows = el("tbody");
    this.list = el("div", { class: "table-wrap extents", tabindex: "0", role: "region", "aria-label": "Extents that changed", hidden: true },
      el("table", { class: "plain-table", id: "extents" }, el("caption", { class: "visually-hidden" }, "Extents that changed"),
        el("thead", {}, el("tr", {}, ...["Start", "Length", "Size", "Contents"].map((name) => el("th", { scope: "col" }, name)))), this.rows));
    this.more = el("button", { type: "button", hidden: true, onclick: () => this.load(this.next) }, "Show more");
    this.format = el("select", { id: "download-format", "aria-label": "Format of the download", onchange: () => this.showLink() },
      ...Object.entries(FORMATS).map(([name, text]) => el("option", { value: name }, text)));
    this.link = el("a", { class: "button", id: "download" }, "Download");
    this.downloads = el("p", { class: "downloads", hidden: true }, this.format, this.link);
    this.element = el("section", { class: "card", "aria-labelledby": "changes-title" },
      el("h2", { id: "changes-title" }, "What changed between two times"),
      el("div", { class: "times-row" }, this.from.label, this.to.label, this.ask),
      this.status, this.strip, this.list, this.more, this.downloads);
    this.abort = null;
    this.onTheme = () => this.drawStrip();
    document.addEventListener("themechange", this.onTheme);
  }

  close() {
    this.abort?.abort();
    document.removeEventListener("themechange", this.onTheme);
  }

  timeField(id, name) {
    const here = el("small", { class: "muted" });
    const input = el("input", { type: "datetime-local", step: "1", id, onchange: () => this.onTyped() });
    return { input, here, label: el("label", { for: id }, el("span", {}, `${name} (UTC)`), input, here) };
  }

  /** Take two times, in microseconds. */
  pick(since, until) {
    this.since = since;
    this.until = until;
    this.show(this.from, since);
    this.show(this.to, until);
  }

  show(field, us) {
    field.input.value = new Date(us / 1000).toISOString().slice(0, 19);
    setText(field.here, local(us));
  }

  onTyped() {
    const [since, until] = [this.from, this.to].map((field) => Date.parse(`${field.input.value}Z`) * 1000);
    if (Number.isNaN(since) || Number.isNaN(until)) return;
    this.since = since;
    this.until = until;
    setText(this.from.here, local(since));
    setText(this.to.here, local(until));
    this.onPick(since, until);
  }

  async load(offset) {
    if (this.since == null) return;
    this.abort?.abort();
    this.abort = new AbortController();
    const points = offset ? this.points : { since: iso(this.since), until: iso(this.until) };
    setText(this.status, "Reading the log…");
    if (!offset) this.hideAnswer();
    const query = new URLSearchParams({ ...points, offset, limit: PAGE });
    try {
      this.showAnswer(await ask(this.volume, "changed", query, this.abort.signal), offset);
    } catch (error) {
      if (error.name !== "AbortError") setText(this.status, error.message);
    }
  }

  hideAnswer() {
    this.rows.replaceChildren();
    for (const node of [this.list, this.more, this.downloads, this.strip]) node.hidden = true;
  }

  showAnswer(fields, offset) {
    // By positions the next page, and the download, are of the same answer.
    this.points = { since: fields.since, until: fields.until };
    this.answer = fields;
    const writers = fields.hosts.length ? ` by ${fields.hosts.join(", ")}${fields.has_more_hosts ? " and others" : ""}` : "";
    const share = fields.size_bytes ? ` (${((100 * fields.changed_bytes) / fields.size_bytes).toFixed(2)} % of the volume)` : "";
    const lines = [fields.changed_blocks
      ? `${count(fields.changed_blocks)} blocks changed, ${size(fields.changed_bytes)}${share}: ${count(fields.writes)} writes${writers}, the first at ${utc(fields.first_write_at_us)}, the last at ${utc(fields.last_write_at_us)}.`
      : "Nothing changed."];
    if (fields.volume_began_us != null) lines.push(`The volume's history begins at ${both(fields.volume_began_us)}: the answer begins there.`);
    lines.push(`Positions @${fields.since} to @${fields.until}.`);
    setText(this.status, lines.join(" "));
    for (const extent of fields.extents) {
      this.rows.append(el("tr", {},
        el("td", { class: "number" }, String(extent.start)), el("td", { class: "number" }, String(extent.length)),
        el("td", { class: "number" }, size(extent.length)), el("td", {}, extent.zero ? "zeros" : "data")));
    }
    this.next = fields.next;
    this.more.hidden = fields.next == null;
    this.list.hidden = fields.changed_blocks === 0;
    this.downloads.hidden = false;
    if (!offset) this.list.scrollTop = 0;
    this.showLink();
    this.drawStrip();
  }

  showLink() {
    if (!this.points) return;
    const query = new URLSearchParams({ ...this.points, format: this.format.value });
    this.link.href = addressOf(this.volume, "download", query);
    this.link.setAttribute("download", "");
    this.link.setAttribute("aria-label", `Download as ${FORMATS[this.format.value]}`);
  }

  drawStrip() {
    const fields = this.answer;
    this.strip.hidden = !fields || fields.changed_blocks === 0;
    if (this.strip.hidden) return;
    const { strip } = fields;
    this.strip.width = strip.length;
    this.strip.height = 1;
    const context = this.strip.getContext("2d");
    const whole = fields.size_bytes / fields.block_size / strip.length;
    strip.forEach((blocks, index) => {
      if (!blocks) return;
      context.globalAlpha = 0.35 + 0.65 * Math.min(1, blocks / whole);
      context.fillStyle = colour("--accent");
      context.fillRect(index, 0, 1, 1);
    });
    const touched = strip.filter(Boolean).length;
    this.strip.setAttribute("aria-label", `Where in the volume: changes lie in ${count(touched)} of ${count(strip.length)} equal parts`);
  }
}
