// Save labels and prompt logs, and load prompt logs.

import * as api from "../network/api.js";
import { app } from "../state/app.js";
import { displayName } from "../state/own_sessions.js";
import { $, createElement } from "./dom.js";
import { showProblem } from "./messages.js";
import { showMessage } from "./status.js";

const SERIES_FORMATS = { dcm: "dcm (SEG)", labelmap: "dcm (labelmap SEG)", rtstruct: "dcm (RTSTRUCT)" };
const ENDINGS = /\.(nii\.gz|nii|nrrd|nhdr|mha|mhd|zip|dcm)$/i;

/** List the formats in which a scan's labels can be saved; the chosen one stays selected if it is among them. */
export function setFormats(formats) {
  const select = $("format");
  if (formats.join() === [...select.options].map(({ value }) => value).join()) return;
  const chosen = select.value;
  const options = formats.map((value) => createElement("option", { value, textContent: SERIES_FORMATS[value] ?? value }));
  select.replaceChildren(...options);
  if (formats.includes(chosen)) select.value = chosen;
}

/** The selected format, and the ending of its files. */
export function selectedFormat() {
  const { value } = $("format");
  return { format: value, ending: ["labelmap", "rtstruct"].includes(value) ? `${value}.dcm` : value };
}

export async function saveLabels(session) {
  const { format, ending } = selectedFormat();
  const segmentation = ending === "nrrd" ? "seg.nrrd" : ending; // the ending by which 3D Slicer reads names and colours
  await fetchAndSave(session, () => api.labels(session.name, format), `labels.${segmentation}`);
  if (format === "nii.gz") await fetchAndSave(session, () => api.labelDescriptions(session.name), "labels.label.txt");
}

export async function saveLog(session) {
  await fetchAndSave(session, () => api.log(session.name), "prompts.json");
}

async function fetchAndSave(session, fetchFile, ending) {
  showMessage("preparing the file");
  try {
    const name = `${displayName(session.state.image).split("/").at(-1).replace(ENDINGS, "").replaceAll(" ", "-")}-${ending}`;
    saveFile(await fetchFile(), name);
    showMessage(`saved ${name}`);
  } catch (error) {
    showMessage("");
    showProblem(error.message);
  }
}

/** Offer a file for download. */
export function saveFile(blob, name) {
  const url = URL.createObjectURL(blob);
  createElement("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** Start a new session on the same scan from a label file. */
export async function loadLabels(file) {
  $("labels-file").value = "";
  const { session } = app;
  if (!file || !session?.state?.shape) return;
  showMessage(`loading ${file.name}`);
  try {
    location.hash = (await api.loadLabels(session.name, file)).session;
  } catch (error) {
    showMessage("");
    showProblem(`${file.name}: ${error.message}`);
  }
}

export async function loadLog(file) {
  $("log-file").value = "";
  const { session, model } = app;
  if (!file || !session?.state?.shape) return;
  try {
    const log = JSON.parse(await file.text());
    if (!Array.isArray(log.entries)) throw new Error("not a prompt log");
    if (log.shape?.join() !== session.state.shape.join()) throw new Error("it belongs to an image of another shape");
    if (log.model_sha256 !== model.sha256) throw new Error("it belongs to another model");
    await api.replace(session.name, log.entries);
  } catch (error) {
    showProblem(`${file.name}: ${error.message}`);
  }
}
