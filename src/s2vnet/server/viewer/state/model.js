// The session's model, whose classes the page shows.

import { $, createElement } from "../panels/dom.js";
import { updateClasses } from "../panels/refresh_lists.js";
import { app } from "./app.js";

/** Show the classes of a model, by its name. */
export function useModel(name) {
  const model = app.info.models.find((one) => one.name === name);
  $("model-choice").value = name;
  if (model === app.model) return;
  app.model = model;
  app.hidden.clear();
  updateClasses();
}

/** Offer the models of a server with several; `choose(name)`. */
export function listModels(choose) {
  const { models } = app.info;
  const option = ({ name, modality }) => createElement("option", { value: name, textContent: modality ? `${name} (${modality})` : name });
  $("model-choice").replaceChildren(...models.map(option));
  $("model-choice").onchange = () => choose($("model-choice").value);
  $("model-label").hidden = models.length === 1;
  const texts = models.map(({ name, classes }) => `${name}, ${classes.length - 1} classes`);
  $("model").textContent = models.length === 1 ? texts[0] : `${texts.join("; ")}. A scan gets the one for its modality.`;
}
