// Entry point of the page without a server: prepares the tab, connects the viewer to the back end in it, and starts it.

import { $, createElement } from "../panels/dom.js";
import { showProblem } from "../panels/messages.js";
import { transport } from "../network/transport.js";
import { app } from "../state/app.js";
import { upload } from "../state/open_scan.js";
import { BackEnd } from "./back_end.js";
import { convertSeries, filesOf } from "./dicom.js";

const IMAGE = /\.nii(\.gz)?$/i;
const RELOADED = "s2vnet-reloaded";

async function start() {
  $("start").hidden = false;
  $("start-form").inert = true;
  $("sending").textContent = "loading; this is done once, the page then works offline";
  if (await registerServiceWorker()) return location.reload(); // now with its headers
  sessionStorage.removeItem(RELOADED);
  const content = await (await fetch("models.json")).json();
  const backEnd = new BackEnd(content);
  transport.fetch = (url, options) => backEnd.fetch(url, options);
  transport.connect = (url) => {
    app.tools.choose("look"); // prompts are not answered here
    return backEnd.connect(url);
  };
  adaptStartPage();
  connectFiles();
  await import("../main.js");
  $("sending").textContent = "";
  $("start-form").inert = false;
}

/**
 * Register the service worker, which keeps the page for offline use and sends the headers of cross-origin isolation, which
 * threads need. Resolves to whether the page has to be loaded again to get them.
 */
async function registerServiceWorker() {
  if (!navigator.serviceWorker) return false;
  try {
    await navigator.serviceWorker.register("service_worker.js");
    await navigator.serviceWorker.ready;
  } catch {
    return false; // for example in a private window: one thread, and no offline use
  }
  if (crossOriginIsolated || sessionStorage.getItem(RELOADED)) return false;
  sessionStorage.setItem(RELOADED, "1");
  return true;
}

function adaptStartPage() {
  const drop = document.querySelector("#start .drop");
  drop.firstChild.textContent = "Drop a scan here, or choose files: .nii.gz, .nii, or all DICOM files of a series";
  Object.assign($("file"), { accept: "", multiple: true });
  const threads = crossOriginIsolated ? "" : " This page is not cross-origin isolated, so one thread computes, which takes longer.";
  drop.after(createElement("p", { textContent: `Scans stay in this tab; nothing is sent.${threads}` }));
}

/** Take files before the viewer does, since they may be a DICOM series. */
function connectFiles() {
  const take = (event, files) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    document.body.classList.remove("dragging");
    openFiles(files);
  };
  window.addEventListener("drop", (event) => take(event, filesOf(event.dataTransfer.items)), true);
  $("file").addEventListener("change", (event) => take(event, Promise.resolve([...$("file").files])), true);
}

async function openFiles(promised) {
  try {
    const files = await promised;
    if (files.length === 0) return;
    if (files.length === 1 && IMAGE.test(files[0].name)) return await upload(files);
    $("sending").textContent = `reading ${files.length} DICOM files …`;
    await upload([await convertSeries(files)]);
  } catch (error) {
    $("sending").textContent = "";
    showProblem(error.message);
  }
}

start().catch((error) => {
  $("start-form").hidden = true;
  Object.assign($("fatal"), { hidden: false, textContent: `The page could not be loaded: ${error.message}` });
});
