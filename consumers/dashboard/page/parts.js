// The parts that run: sites, workers of the node, hosts that aren't well, groups, archives, backups.

import { concerns } from "./concerns.js";
import { el, healthText, reasonAndAction, table, time } from "./elements.js";
import { UNKNOWN, count, duration, size } from "./format.js";

const KINDS = ["site", "node", "host", "group", "archive", "backup", "summary"];

export class PartsPage {
  constructor(store, parent) {
    this.store = store;
    this.title = "Parts";
    this.place = el("div", { class: "stack" });
    parent.append(el("h1", {}, "Parts"), this.place);
    this.listener = (event) => {
      if (KINDS.some((kind) => event.detail.has(kind))) this.show();
    };
    store.addEventListener("change", this.listener);
    this.show();
  }

  close() {
    this.store.removeEventListener("change", this.listener);
  }

  sorted(kind) {
    const items = this.store.of(kind);
    return [...items.keys()].sort().map((name) => items.get(name));
  }

  show() {
    const summary = this.store.one("summary") ?? {};
    const troubles = concerns(summary);
    this.place.replaceChildren(
      ...(troubles.length ? [table("Beside these parts", ["What", "Health", "Why, and what to do"], troubles.map(([what, health, why]) => [
        what, healthText(health), reasonAndAction(why)]))] : []),
      table("Sites", ["Site", "Health", "Process", "Last heard", "Volumes", "Why, and what to do"], this.sorted("site").map((site) => [
        site.site, healthText(site.health), `${site.life.toLowerCase()}${site.host ? ` on ${site.host} (${site.pid})` : ""}`,
        time(site.heard_at_us), counts(site.volumes), reasonAndAction(site)]), "No site has reported."),
      table("Workers of the node", ["Worker", "Health", "Partitions", "Lag", "Table", "Why, and what to do"], this.sorted("node").map((node) => [
        node.node, healthText(node.health), node.partitions.join(", ") || "none",
        duration(node.lag_s), size(node.table_bytes), reasonAndAction(node)]), summary.partitions_reason ?? "No worker has reported."),
      table(`Hosts that aren't well${summary.open_hosts == null ? "" : ` (volumes that are open: ${count(summary.open_hosts)})`}`,
        ["Host", "Volume", "Health", "State", "Why, and what to do"], this.sorted("host").slice(0, 200).map((host) => [
          host.host, host.volume, healthText(host.health), host.state?.toLowerCase() ?? UNKNOWN, silence(host)]), "None."),
      ...this.optional("group", "Consistency groups", ["Group", "Site", "Health", "Common point", "Members", "Why, and what to do"], (group) => [
        group.group, group.site, healthText(group.health), time(group.common_point_at_us),
        group.members.join(", "), reasonAndAction(group)]),
      ...this.optional("archive", "Archives", ["Archive", "Health", "Positions behind", "As of", "Why, and what to do"], (archive) => [
        archive.archive, healthText(archive.health), count(archive.behind_positions), time(archive.at_us), reasonAndAction(archive)]),
      ...this.optional("backup", "Backups", ["Volume", "Repository", "Health", "Last point", "Why, and what to do"], (backup) => [
        backup.volume, backup.address, healthText(backup.health), time(backup.point_at_us), reasonAndAction(backup)]),
    );
  }

  optional(kind, caption, columns, row) {
    const items = this.sorted(kind).slice(0, 500);
    return items.length ? [table(caption, columns, items.map(row))] : [];
  }
}

/** Why a host isn't well. Of a silent one the page is sent since when, and not for how long. */
function silence(host) {
  if (host.heard_at_us == null) return reasonAndAction(host);
  return el("span", {}, "nothing was heard of it since ", time(host.heard_at_us), ". ", host.next_action ?? "");
}

function counts(volumes) {
  const parts = Object.entries(volumes ?? {}).map(([state, number]) => `${count(number)} ${state.toLowerCase()}`);
  return parts.join(", ") || "none";
}
