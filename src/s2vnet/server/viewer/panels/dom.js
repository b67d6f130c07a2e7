// DOM helpers.

export const $ = (id) => document.getElementById(id);

/** Create an element with properties (attributes if the name has a dash, as for aria) and children. */
export function createElement(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function createButton(className, textContent, onclick) {
  return createElement("button", { type: "button", className, textContent, onclick });
}
