// One volume: its secondaries, their lag, its writes by range and time, and what changed when.

import { Changes } from "./changes.js";
import { el, healthText, reasonAndAction, time } from "./elements.js";
import { MEANINGS, UNKNOWN, count, duration, lag, percent, size, stateWord, utc } from "./format.js";
import { HeatMap } from "./heat_map.js";
import { LagChart } from "./lag_chart.js";
import { refusedTable } from "./quarantine.js";

export class VolumePage {
  constructor(store, parent, name) {
    this.store = store;
    this.title = name;
    this.name = name;
    this.facts = el("dl", { class: "facts" });
    this.copies = el("div", { class: "copies" });
    this.lagChart = new LagChart(store, name);
    this.changes = new Changes(name);
    this.heatMap = new HeatMap(name, store, (since, until) => this.changes.pick(since, until));
    this.changes.onPick = (since, until) => this.heatMap.setPicked(since, until);
    this.refused = el("section", { class: "card", hidden: true });
    this.missing = el("p", { class: "empty", hidden: true }, "There is no such volume.");
    parent.append(
      el("p", { class: "back" }, el("a", { href: "#/" }, "← All volumes")),
      el("h1", { class: "volume-name" }, name),
      this.missing,
      this.facts,
      el("section", { class: "card", "aria-labelledby": "copies-title" }, el("h2", { id: "copies-title" }, "Secondaries"), this.copies),
      this.lagChart.element,
      this.heatMap.element,
      this.changes.element,
      this.refused,
    );
    this.listeners = [
      [store, "change", (event) => this.onChange(event.detail)],
      [store, "looked", () => this.tick()],
    ];
    for (const [target, event, listener] of this.listeners) target.addEventListener(event, listener);
    this.show();
    this.showRefused();
  }

  close() {
    for (const [target, event, listener] of this.listeners) target.removeEventListener(event, listener);
    this.lagChart.close();
    this.heatMap.close();
    this.changes.close();
  }

  onChange(kinds) {
    if (kinds.has("volume") || kinds.has("site")) this.show();
    if (kinds.has("refused")) this.showRefused();
  }

  tick() {
    const now = this.store.nowUs();
    for (const copy of this.copies.children) {
      const fields = this.store.one("volume", this.name)?.sites[copy.dataset.site];
      if (fields) copy.querySelector(".big-lag").textContent = lag(fields, now)[0];
    }
    this.lagChart.tick();
    this.heatMap.tick();
  }

  show() {
    const volume = this.store.one("volume", this.name);
    this.missing.hidden = !this.store.isLoaded || volume !== undefined;
    if (!volume) return;
    this.facts.replaceChildren(...facts(volume));
    const sites = Object.keys(volume.sites).sort();
    this.copies.replaceChildren(...sites.map((site) => copyCard(site, volume.sites[site], this.store.one("site", site), this.store.nowUs())));
    if (sites.length === 0) this.copies.append(el("p", { class: "muted" }, "No site mirrors this volume. `mirrorlog site run SITE --dir DIR` starts one."));
    this.lagChart.setSites(sites);
    this.heatMap.start();
  }

  showRefused() {
    const events = [...this.store.of("refused").values()].filter((event) => event.key === this.name);
    this.refused.hidden = events.length === 0;
    if (events.length) this.refused.replaceChildren(el("h2", {}, "Refused"), refusedTable(this.store, events));
  }
}

function fact(name, value) {
  return [el("div", {}, el("dt", {}, name), el("dd", {}, value))];
}

function facts(volume) {
  const hosts = volume.hosts ?? [];
  const host = hosts.length === 0 ? "nobody has it open" : hosts.map((one) => `${one.host} (${one.state?.toLowerCase() ?? "silent"})`).join(", ");
  return [
    ...fact("Size", volume.size_bytes == null ? UNKNOWN : `${size(volume.size_bytes)}, blocks of ${size(volume.block_size)}`),
    ...fact("Primary", `${volume.primary ?? UNKNOWN}${volume.primary_site ? ` at ${volume.primary_site}` : ""}`),
    ...fact("Host", host),
    ...(volume.group ? fact("Consistency group", volume.group) : []),
    ...(volume.state && volume.state !== "ACTIVE" ? fact("State", volume.state.toLowerCase()) : []),
    ...fact("Created", time(volume.created_at_us)),
    ...fact("Partition", String(volume.partition ?? UNKNOWN)),
  ];
}

function copyCard(site, fields, siteFields, now) {
  const meaning = MEANINGS[fields.state];
  const was = fields.state == null && fields.reported_state ? ` (the last report said ${fields.reported_state.toLowerCase()}, ${utc(fields.reported_at_us)})` : "";
  const running = siteFields?.life === "RUNNING";
  const why = running ? fields : { ...siteFields, ...fields };
  return el("article", { class: "copy", "data-site": site },
    el("h3", {}, site, el("span", { class: "life" }, ` ${siteFields?.life?.toLowerCase() ?? UNKNOWN}`)),
    el("p", { class: "state-line" }, healthText(fields.health), el("strong", {}, stateWord(fields)), el("span", { class: "muted" }, was || (meaning ? meaning : ""))),
    progressOf("in sync", fields.state === "CONSISTENT" ? null : fields.in_sync_fraction,
      [fields.rate_bytes_s == null ? null : `${size(fields.rate_bytes_s)}/s`, endsIn(fields, now)]),
    verificationOf(fields, now),
    el("dl", { class: "facts small" },
      ...fact("Lag", el("span", { class: "big-lag" }, lag(fields, now)[0])),
      ...fact("Behind", fields.behind_bytes === 0 ? "lacks nothing" : size(fields.behind_bytes)),
      ...fact("Applied position", count(fields.applied_position)),
      ...fact("Consistent at position", count(fields.consistent_position)),
      ...fact("Last applied", time(fields.last_applied_at_us)),
      ...fact("Last verified", fields.last_verify == null ? UNKNOWN : el("span", {}, `${fields.last_verify}, `, time(fields.last_verify_at_us))),
      ...(fields.rung ? fact("Copies", { changed: "changed blocks", allocated: "allocated blocks", full: "everything" }[fields.rung] ?? fields.rung) : []),
    ),
    why.reason || why.next_action ? el("p", { class: "reason" }, reasonAndAction(why)) : null);
}

function endsIn(fields, now) {
  if (fields.ends_at_us == null || now == null) return null;
  return `ends in ${duration(Math.max(0, (fields.ends_at_us - now) / 1e6))}`;
}

function progressOf(what, fraction, notes) {
  if (fraction == null) return null;
  const text = [`${percent(fraction)} ${what}`, ...notes].filter(Boolean).join(", ");
  return el("p", { class: "progress" }, el("progress", { max: "1", value: String(fraction), "aria-label": text }), el("span", {}, text));
}

function verificationOf(fields, now) {
  const report = fields.verification;
  if (!report || report.state !== "RUNNING") return null;
  if (report.heard_at_us == null || now == null || now - report.heard_at_us > 60e6) return null;
  const fraction = report.size_bytes ? report.reached_bytes / report.size_bytes : null;
  const notes = [`${count(report.different_blocks)} blocks differ`, report.skipped_bytes ? `${size(report.skipped_bytes)} skipped` : null];
  return progressOf("verified", fraction, notes);
}
