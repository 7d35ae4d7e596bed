// Numbers and times as people read them. What isn't known is "unknown", never 0.

export const UNKNOWN = "unknown";
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];
const DURATIONS = [["d", 86400], ["h", 3600], ["min", 60]];

/** As mirrorlog.units.format_size: 4.0 KiB for 4096. */
export function size(bytes) {
  if (bytes == null) return UNKNOWN;
  let value = bytes;
  for (const unit of SIZES) {
    if (value < 1024) return unit === "B" ? `${value.toFixed(0)} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} PiB`;
}

/** As mirrorlog.units.format_duration: 1.5 h for 5400. */
export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  for (const [unit, length] of DURATIONS) {
    if (seconds >= length) return `${(seconds / length).toFixed(1)} ${unit}`.replace(".0 ", " ");
  }
  return `${seconds.toFixed(1)} s`.replace(".0 ", " ");
}

export function count(number) {
  return number == null ? UNKNOWN : number.toLocaleString("en");
}

/** 100 % only if nothing is missing. */
export function percent(fraction) {
  return fraction == null ? UNKNOWN : `${(Math.floor(fraction * 1000) / 10).toFixed(1)} %`;
}

/** 2026-11-29 09:12:40Z */
export function utc(us) {
  if (us == null) return UNKNOWN;
  const date = new Date(us / 1000);
  return Number.isNaN(date.getTime()) ? UNKNOWN : `${date.toISOString().slice(0, 19).replace("T", " ")}Z`;
}

/** The time in the viewer's zone; empty if that is UTC. */
export function local(us) {
  if (us == null) return "";
  const date = new Date(us / 1000);
  if (Number.isNaN(date.getTime()) || date.getTimezoneOffset() === 0) return "";
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())} here`;
}

/** The time in UTC, and in the viewer's zone beside it. */
export function both(us) {
  const here = local(us);
  return here ? `${utc(us)} (${here})` : utc(us);
}

export const WORDS = {
  CONSISTENT: "consistent",
  BEHIND: "behind",
  RESYNCING: "resyncing",
  SETTLING: "settling",
  INITIAL: "first copy",
  STOPPED: "stopped",
  DIVERGED: "diverged",
  GAP: "gap",
  DETACHED: "detached",
  UNKNOWN: UNKNOWN,
};
export const MEANINGS = {
  CONSISTENT: "equal to the primary as of its position, and nothing is newer",
  BEHIND: "consistent at its position, and copies what is newer",
  RESYNCING: "a cycle runs: it equals the primary at no position",
  SETTLING: "applied, and not proved to be consistent yet",
  INITIAL: "the first copy runs or waits",
  STOPPED: "an error, or an operator, stopped it",
  DIVERGED: "it was the primary before a promotion",
  GAP: "the log doesn't lead to it any more: all is copied",
  DETACHED: "the site keeps off it",
};
export const HEALTHS = ["CRITICAL", "WARNING", "UNKNOWN", "OK"];
export const SIGNS = { OK: "✓", WARNING: "!", CRITICAL: "✕", UNKNOWN: "?" };
export const HEALTH_WORDS = { OK: "well", WARNING: "warning", CRITICAL: "critical", UNKNOWN: UNKNOWN };

export function severity(health) {
  return HEALTHS.length - 1 - HEALTHS.indexOf(health ?? "UNKNOWN");
}

/** What a secondary lags: [text, seconds for sorting]. now: microseconds. */
export function lag(cell, now) {
  const since = (us) => (now == null ? null : Math.max(0, (now - us) / 1e6));
  if (cell.lag_s != null) return [duration(cell.lag_s), cell.lag_s];
  if (cell.lag_since_us != null) return [duration(since(cell.lag_since_us)), since(cell.lag_since_us)];
  if (cell.at_least_since_us != null) {
    const seconds = since(cell.at_least_since_us);
    return [`> ${duration(seconds)}`, seconds];
  }
  if (cell.at_most_since_us != null) return [`< ${duration(since(cell.at_most_since_us))}`, 0];
  return [UNKNOWN, null];
}

export function stateWord(cell) {
  if (cell.state != null) return WORDS[cell.state] ?? cell.state.toLowerCase();
  return UNKNOWN;
}
