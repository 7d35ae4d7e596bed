// The frame of the page: which part is shown, how everything does, and as of when.

import { concerns } from "./concerns.js";
import { badge, el, setText } from "./elements.js";
import { HEALTH_WORDS, both, count, utc } from "./format.js";
import { MapPage } from "./map.js";
import { PartsPage } from "./parts.js";
import { QuarantinePage } from "./quarantine.js";
import { Store } from "./stream.js";
import { VolumePage } from "./volume.js";

const store = new Store();
const content = document.getElementById("content");
let page = null;

function route() {
  const [, kind, name] = location.hash.split("/");
  if (page) page.close();
  content.replaceChildren();
  document.body.dataset.page = kind || "map";
  if (kind === "volume" && name) page = new VolumePage(store, content, decodeURIComponent(name));
  else if (kind === "parts") page = new PartsPage(store, content);
  else if (kind === "quarantine") page = new QuarantinePage(store, content);
  else page = new MapPage(store, content);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === (kind || "map")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = page.title ? `${page.title} – mirrorlog` : "mirrorlog";
}

function showOverall() {
  const summary = store.one("summary");
  const overall = document.getElementById("overall");
  const wanted = summary ? `Everything together: ${HEALTH_WORDS[summary.health]}` : "";
  if (overall.dataset.shown !== wanted) {
    overall.dataset.shown = wanted;
    overall.replaceChildren(
      ...(summary ? [badge(summary.health), el("span", { class: "word" }, ` ${wanted}`)] : []),
    );
  }
  const refused = store.one("quarantine")?.count;
  setText(document.getElementById("refused-count"), refused ? count(refused) : "");
  const troubles = summary ? concerns(summary).length : 0;
  setText(document.getElementById("concerns-count"), troubles ? count(troubles) : "");
}

function showTime() {
  const asOf = document.getElementById("as-of");
  setText(asOf, store.lookedUs == null ? "" : utc(store.lookedUs));
  asOf.title = store.lookedUs == null ? "" : `As of ${both(store.lookedUs)}`;
  const banner = document.getElementById("banner");
  const trouble = store.heardAt == null ? null : store.trouble();
  banner.hidden = trouble === null;
  setText(banner, trouble ?? "");
  document.body.classList.toggle("stale", trouble !== null);
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  content.focus();
});
addEventListener("hashchange", route);
store.addEventListener("change", showOverall);
store.addEventListener("looked", showTime);
route();
store.start();
