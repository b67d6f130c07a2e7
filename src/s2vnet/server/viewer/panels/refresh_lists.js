// Update the lists and buttons.

import { app } from "../state/app.js";
import { lockedClasses } from "./class_list.js";

export function updateLists() {
  const { session, info, tools, hidden } = app;
  const entries = session?.state?.entries ?? [];
  const counts = session?.labels ? session.counts : null;
  const locked = lockedClasses(entries);
  app.classList.update({ current: tools.classId, hidden, locked, counts, volume: voxelVolumeMl(session?.state?.affine) });
  app.promptList.update(entries, info.classes, session && !session.connected ? session.waiting : []);
  for (const [name, possible] of [
    ["undo", session?.state?.can_undo],
    ["redo", session?.state?.can_redo],
    ["reset", entries.length],
  ]) {
    document.querySelector(`[data-command="${name}"]`).disabled = !possible;
  }
}

/** Volume of a voxel in millilitres. */
function voxelVolumeMl(affine) {
  if (!affine) return 0;
  const [[a, b, c], [d, e, f], [g, h, i]] = affine;
  return Math.abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / 1000;
}

export function classColors() {
  return app.info.classes.map(({ id, color }) => ({ id, color, visible: !app.hidden.has(id) }));
}
