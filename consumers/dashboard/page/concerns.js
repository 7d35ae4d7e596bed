// What is wrong beside the rows of volumes, sites and other parts.

import { count } from "./format.js";

const MOST_NAMED = 12;

/** Rows of [what, health, {reason, next_action}]; none while all of it is well. summary: the item. */
export function concerns(summary) {
  const rows = [];
  const missing = summary.partitions_without_worker;
  if (missing == null && summary.partitions_reason) {
    rows.push(["Partitions of the log", "UNKNOWN", { reason: summary.partitions_reason }]);
  } else if (missing?.length) {
    rows.push([withoutWorker(missing), "CRITICAL",
      { reason: summary.partitions_reason, next_action: summary.partitions_next_action }]);
  }
  if (summary.unmirrored) {
    rows.push([`Volumes that no site mirrors: ${count(summary.unmirrored)}`, "WARNING",
      { next_action: "Start a site: mirrorlog site run SITE --dir DIR." }]);
  }
  if (summary.unreadable_reports) {
    rows.push([`Reports that can't be read: ${count(summary.unreadable_reports)}`, "UNKNOWN",
      { reason: "They are damaged, or of a newer release", next_action: "Upgrade the dashboard first." }]);
  }
  return rows;
}

function withoutWorker(missing) {
  if (missing.length === 1) return `Partition ${missing[0]} has no worker`;
  const more = missing.length - MOST_NAMED;
  return `Partitions ${missing.slice(0, MOST_NAMED).join(", ")}${more > 0 ? ` and ${count(more)} more` : ""} have no worker`;
}
