// The quarantine: events that the node refused, with the reasons.

import { el, table, time } from "./elements.js";
import { UNKNOWN, count, size } from "./format.js";

export class QuarantinePage {
  constructor(store, parent) {
    this.store = store;
    this.title = "Quarantine";
    this.place = el("div");
    parent.append(
      el("h1", {}, "Quarantine"),
      el("p", { class: "intro" },
        "What the node could not take as an address: it is kept with its bytes and the reason, and the stream goes on."),
      this.place);
    this.listener = (event) => {
      if (event.detail.has("refused") || event.detail.has("quarantine")) this.show();
    };
    store.addEventListener("change", this.listener);
    this.show();
  }

  close() {
    this.store.removeEventListener("change", this.listener);
  }

  show() {
    this.place.replaceChildren(refusedTable(this.store, [...this.store.of("refused").values()]));
  }
}

/** The events as a table, the newest first. */
export function refusedTable(store, events) {
  const rows = events.sort((a, b) => b.place - a.place).map((event) => [
    time(event.at_us),
    event.key ?? UNKNOWN,
    event.reason ?? UNKNOWN,
    event.text ?? UNKNOWN,
    event.position == null ? UNKNOWN : `partition ${event.partition}, @${event.position}`,
    el("span", {}, size(event.value_bytes), " ", el("code", { class: "bytes" }, event.value_head ?? "")),
  ]);
  const all = store.one("quarantine")?.count;
  const caption = all > rows.length ? `The newest ${count(rows.length)} of ${count(all)} events` : "All events";
  return table(caption, ["When", "Key", "Reason", "What was wrong", "Where", "Bytes"], rows, "Nothing was refused.");
}
