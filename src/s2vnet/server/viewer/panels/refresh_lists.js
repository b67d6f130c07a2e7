// Update the lists and buttons.

import { app } from "../state/app.js";
import { lockedClasses } from "./class_list.js";

export function updateLists() {
  const { session, model, tools, hidden } = app;
  const entries = session?.state?.entries ?? [];
  const counts = session?.labels ? session.counts : null;
  const locked = lockedClasses(entries);
  app.classList.update({ current: tools.classId, hidden, locked, counts, volume: app.voxelMl() });
  app.promptList.update(entries, model.classes, session && !session.connected ? session.waiting : []);
  for (const [name, possible] of [
    ["undo", session?.state?.can_undo],
    ["redo", session?.state?.can_redo],
    ["reset", entries.length],
  ]) {
    document.querySelector(`[data-command="${name}"]`).disabled = !possible;
  }
}

export function classColors() {
  return app.model.classes.map(({ id, color }) => ({ id, color, visible: !app.hidden.has(id) }));
}
