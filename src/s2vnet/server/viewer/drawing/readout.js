// Draw the overlay, and the readout of the voxel under the pointer.

import { $ } from "../panels/dom.js";
import { app } from "../state/app.js";
import { findClass } from "../state/classes.js";

export const CT = /^ct\b/i;

export function drawOverlay() {
  const entries = app.session?.state?.entries ?? [];
  app.overlay.draw({
    entries: app.scene.shape ? entries : [],
    waiting: app.session?.waiting.flatMap(({ entries: added }) => added ?? []) ?? [],
    draft: app.tools.draft,
    cursor: app.tools.cursor,
    flash: app.flash,
    highlighted: app.highlighted,
    colorOf: (id) => (id === 0 ? "#ffffff" : findClass(id, app.info.classes, entries).color),
  });
  updateReadout(app.pointer);
}

/** Show voxel, intensity and label under the pointer, or at the crosshair. */
export function updateReadout(hit) {
  app.pointer = hit;
  const { info, scene, session } = app;
  if (!scene.shape || !session?.state?.shape) return ($("readout").textContent = "");
  const voxel = hit?.voxel ?? scene.at;
  const value = scene.valueAt(voxel);
  const label = session.labels ? findClass(session.labelAt(...voxel), info.classes, session.state.entries ?? []).name : "";
  const unit = CT.test(info.channels[0]) ? " HU" : "";
  $("readout").textContent = `voxel ${voxel.join(" ")}    ${Number(value.toPrecision(4))}${unit}    ${label ?? ""}`;
}
