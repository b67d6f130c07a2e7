// Draw the overlay, and the readout of the voxel under the pointer.

import { $ } from "../panels/dom.js";
import { app } from "../state/app.js";
import { findClass } from "../state/classes.js";

export const CT = /^ct\b/i;

export function drawOverlay() {
  const entries = app.session?.state?.entries ?? [];
  app.overlay.draw({
    entries: app.scene.shape && !app.labelsHidden ? entries : [],
    waiting: app.session?.waiting.flatMap(({ entries: added }) => added ?? []) ?? [],
    draft: app.tools.draft,
    cursor: app.tools.cursor,
    ruler: app.tools.tool === "ruler" ? app.tools.ruler : null,
    flash: app.flash,
    highlighted: app.highlighted,
    colorOf: (id) => (id === 0 ? "#ffffff" : findClass(id, app.classes, entries).color),
  });
  updateReadout(app.pointer);
}

/** Show voxel, intensity and label under the pointer, or at the crosshair. */
export function updateReadout(hit) {
  app.pointer = hit;
  const { model, scene, session } = app;
  if (!scene.shape || !session?.state?.shape) return ($("readout").textContent = "");
  const voxel = hit?.voxel ?? scene.at;
  const value = scene.valueAt(voxel);
  const label = session.labels ? findClass(session.labelAt(...voxel), app.classes, session.state.entries ?? []).name : "";
  const unit = CT.test(model.channels[0]) ? " HU" : "";
  $("readout").textContent = `voxel ${voxel.join(" ")}    ${positionText(voxel, session.state.affine)}    ${Number(value.toPrecision(4))}${unit}    ${label ?? ""}`;
}

/** Position of a voxel's centre in mm, towards right or left, anterior or posterior, superior or inferior. */
function positionText(voxel, affine) {
  const mm = affine.slice(0, 3).map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
  return mm.map((at, n) => `${at < 0 ? "LPI"[n] : "RAS"[n]} ${Math.abs(at).toFixed(1)}`).join("  ") + " mm";
}
