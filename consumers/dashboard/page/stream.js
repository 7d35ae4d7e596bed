// The items of the page, kept up to date by server-sent events.

const QUIET_MS = 15000;
const RETRY_MS = 5000;
const BATCH_MS = 120;
const HIDDEN_MS = 10000; // a browser has six connections to a server: pages that nobody sees take none

/** kind → name → fields. Dispatches "change" with `detail`, the kinds that changed, and "looked". */
export class Store extends EventTarget {
  constructor() {
    super();
    this.kinds = new Map();
    this.lookedUs = null;
    this.error = null;
    this.connected = false;
    this.heardAt = null;
    this.lastId = "";
    this.source = null;
    this.changed = new Set();
    this.timer = null;
  }

  start() {
    this.open();
    let timer = null;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (document.hidden) timer = setTimeout(() => this.source.close(), HIDDEN_MS);
      else if (this.source.readyState === EventSource.CLOSED) this.open();
    });
    setInterval(() => this.dispatchEvent(new Event("looked")), 1000);
  }

  open() {
    const source = new EventSource(this.lastId ? `v1/events?after=${this.lastId}` : "v1/events");
    this.source = source;
    source.addEventListener("reset", () => {
      for (const kind of this.kinds.keys()) this.changed.add(kind);
      this.kinds.clear();
    });
    source.addEventListener("items", (event) => {
      for (const [kind, name, fields] of JSON.parse(event.data)) {
        this.of(kind).set(name, fields);
        this.changed.add(kind);
      }
      this.lastId = event.lastEventId;
      this.announceSoon();
    });
    source.addEventListener("removed", (event) => {
      for (const [kind, name] of JSON.parse(event.data)) {
        this.of(kind).delete(name);
        this.changed.add(kind);
      }
      this.lastId = event.lastEventId;
      this.announceSoon();
    });
    source.addEventListener("looked", (event) => {
      const { at_us: atUs, error } = JSON.parse(event.data);
      this.lookedUs = atUs;
      this.error = error;
      this.heardAt = performance.now();
      this.connected = true;
      this.dispatchEvent(new Event("looked"));
    });
    source.addEventListener("error", () => {
      this.connected = false;
      this.dispatchEvent(new Event("looked"));
      // After an answer that is no stream, such as one without a login, a browser gives up.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.source === source && this.open(), RETRY_MS);
    });
  }

  of(kind) {
    let items = this.kinds.get(kind);
    if (items === undefined) {
      items = new Map();
      this.kinds.set(kind, items);
    }
    return items;
  }

  one(kind, name = "") {
    return this.of(kind).get(name);
  }

  /** Whether the items are those of a look. */
  get isLoaded() {
    return this.lookedUs != null;
  }

  /** The time now by the server's clock, in microseconds; null before the first look. */
  nowUs() {
    if (this.lookedUs == null) return null;
    return this.lookedUs + (performance.now() - this.heardAt) * 1000;
  }

  /** Why what is shown may be old; null if it is of now. */
  trouble() {
    if (!this.connected) return "The dashboard doesn't answer. This page shows what was.";
    if (this.error != null) return `The dashboard can't read the topics. This page shows what was. ${this.error}`;
    if (performance.now() - this.heardAt > QUIET_MS) return "The dashboard is silent. This page shows what was.";
    return null;
  }

  announceSoon() {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      const detail = this.changed;
      this.changed = new Set();
      this.dispatchEvent(new CustomEvent("change", { detail }));
    }, BATCH_MS);
  }
}
