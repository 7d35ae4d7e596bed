const add = (parent, tag, text = "") => {
  const made = parent.appendChild(document.createElement(tag));
  // `code` in the description's texts; everything else stays text.
  text.split("`").forEach((part, n) => n % 2 ? add(made, "code").append(part) : made.append(part));
  return made;
};
const table = (parent, rows) => {
  const made = add(parent, "table");
  for (const cells of rows) { const row = add(made, "tr"); cells.forEach(cell => add(row, "td", cell)); }
};
fetch("/openapi.json").then(answer => answer.json()).then(api => {
  const body = document.body;
  add(body, "h1", api.info.title);
  add(body, "p", api.info.description);
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, about] of Object.entries(methods)) {
    add(body, "h2").append(`${method.toUpperCase()} ${path}`);
    add(body, "p", about.summary + ".");
    if (about.description) add(body, "p", about.description);
    if (about.parameters) add(body, "h3", "Parameters");
    table(body, (about.parameters ?? []).map(each => {
      const kind = each.schema.enum?.join(", ") ?? each.schema.type;
      const preset = each.schema.default === undefined ? "" : ` The default is \`${each.schema.default}\`.`;
      return ["`" + each.name + "`", kind, each.description + preset];
    }));
    add(body, "h3", "Answers");
    table(body, Object.entries(about.responses).map(([status, each]) => ["`" + status + "`", each.description]));
  }
  add(body, "h2", "Schemas");
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    add(body, "h3", name);
    add(body, "pre").append(JSON.stringify(schema, null, 2));
  }
});
