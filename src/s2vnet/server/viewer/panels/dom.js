// Helpers for elements of the page.

export const $ = (id) => document.getElementById(id);

/** An element with properties (attributes where the name has a dash, as for aria) and children. */
export function createElement(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function createButton(className, textContent, onclick) {
  return createElement("button", { type: "button", className, textContent, onclick });
}
