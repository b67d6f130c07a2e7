// Draw the overlay, and the readout of the voxel under the pointer.

import { $ } from "../panels/dom.js";
import { app } from "../state/app.js";

export const CT = /^ct\b/i;

export function drawOverlay() {
  app.overlay.draw({
    entries: app.scene.shape ? (app.session?.state?.entries ?? []) : [],
    draft: app.tools.draft,
    cursor: app.tools.cursor,
    highlighted: app.highlighted,
    colorOf: (id) => (id === 0 ? "#ffffff" : app.info.classes.find((one) => one.id === id).color),
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
  const label = session.labels ? info.classes.find(({ id }) => id === session.labelAt(...voxel))?.name : "";
  const unit = CT.test(info.channels[0]) ? " HU" : "";
  $("readout").textContent = `voxel ${voxel.join(" ")}    ${Number(value.toPrecision(4))}${unit}    ${label ?? ""}`;
}
