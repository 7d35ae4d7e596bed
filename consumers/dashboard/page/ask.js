// Questions to the dashboard about one volume.

export function addressOf(volume, what, query) {
  return `v1/volumes/${encodeURIComponent(volume)}/${what}?${query}`;
}

/** Return the answer. The error of one that isn't given says why; it is an AbortError after an abort. */
export async function ask(volume, what, query, signal) {
  let answer, fields;
  try {
    answer = await fetch(addressOf(volume, what, query), { signal });
    fields = await answer.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The dashboard doesn't answer.");
  }
  if (!answer.ok) throw new Error([fields.what, fields.where, fields.next].filter(Boolean).join(". "));
  return fields;
}
