// Classes of the model, and those that the log adds.

export const ADDED_COLOR = "#ff5fd2";

/** Class with a label value: name and colour. */
export function findClass(id, classes, entries) {
  const known = classes.find((one) => one.id === id);
  if (known) return known;
  const added = entries.find((entry) => entry.kind === "class" && entry.class_id === id);
  return { id, name: added?.name ?? `class ${id}`, color: ADDED_COLOR };
}
