// Elements from data. Text is set as text alone: a name from Kafka is never markup.

import { HEALTH_WORDS, SIGNS, UNKNOWN, both, utc } from "./format.js";

/** Make an element. properties: attributes; `on` + event: a listener; `class`. Children: nodes, texts. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, properties = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set a text only if it differs: an equal one would be read aloud again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function badge(health) {
  const node = el("span", { "aria-hidden": "true" });
  setBadge(node, health);
  return node;
}

export function setBadge(node, health) {
  const known = health ?? "UNKNOWN";
  setText(node, SIGNS[known]);
  const wanted = `badge ${known.toLowerCase()}`;
  if (node.className !== wanted) node.className = wanted;
}

/** A badge with its word. */
export function healthText(health) {
  return el("span", { class: "health" }, badge(health), ` ${HEALTH_WORDS[health ?? "UNKNOWN"]}`);
}

export function time(us) {
  if (us == null) return el("span", { class: "muted" }, UNKNOWN);
  return el("time", { datetime: utc(us).replace(" ", "T"), title: both(us) }, both(us));
}

/** A table with a caption. columns: texts. rows: lists of nodes or texts. */
export function table(caption, columns, rows, emptyText) {
  const body = el("tbody");
  for (const cells of rows) {
    const row = el("tr");
    cells.forEach((cell, index) => {
      const content = cell instanceof Node ? cell : String(cell ?? UNKNOWN);
      const tag = index === 0 ? el("th", { scope: "row" }) : el("td", { "data-label": columns[index] });
      tag.append(content);
      row.append(tag);
    });
    body.append(row);
  }
  if (rows.length === 0) {
    body.append(el("tr", {}, el("td", { colspan: columns.length, class: "muted" }, emptyText ?? "None.")));
  }
  const head = el("tr", {}, ...columns.map((column) => el("th", { scope: "col" }, column)));
  return el(
    "div",
    { class: "table-wrap" },
    el("table", { class: "plain-table" }, el("caption", {}, caption), el("thead", {}, head), body),
  );
}

/** A reason and what to do, as one node. */
export function reasonAndAction(fields) {
  const { reason, next_action: next } = fields;
  const parts = [reason && next && !/[.!?]$/.test(reason) ? `${reason}.` : reason, next].filter(Boolean);
  return parts.length ? el("span", {}, parts.join(" ")) : el("span", { class: "muted" }, "–");
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
