// Update the lists and buttons.

import { app } from "../state/app.js";
import { setStyle } from "./class_dialog.js";
import { lockedClasses } from "./class_list.js";

export function updateLists() {
  const { session, tools, hidden } = app;
  const entries = session?.state?.entries ?? [];
  const counts = session?.labels ? session.counts : null;
  const locked = lockedClasses(entries);
  app.classList.update({ current: tools.classId, hidden, locked, counts, volume: app.voxelMl() });
  app.promptList.update(entries, app.classes, session && !session.connected ? session.waiting : []);
  for (const [name, possible] of [
    ["undo", session?.state?.can_undo],
    ["redo", session?.state?.can_redo],
    ["reset", entries.length],
  ]) {
    document.querySelector(`[data-command="${name}"]`).disabled = !possible;
  }
}

let shown = ""; // classes as they are listed

/** Update list, tools and colours where the session's classes have changed. */
export function updateClasses() {
  const { classes, tools, scene } = app;
  const key = JSON.stringify(classes);
  if (key === shown) return;
  shown = key;
  app.classList.setClasses(classes);
  tools.classes = classes;
  if (app.displayed) scene.setColors(classColors());
  const listed = (id) => classes.some((one) => one.id === id);
  if (listed(app.wantedClass)) tools.chooseClass(app.wantedClass);
  else if (!listed(tools.classId)) tools.chooseClass(classes.find(({ id }) => id > 0)?.id ?? 0);
  else tools.chooseClass(tools.classId); // its name or colour may have changed
  const style = listed(app.wantedStyle?.id) ? app.wantedStyle : null;
  if (style) setStyle(app.session, style.id, style.style);
  if (listed(app.wantedClass)) app.wantedClass = null;
  if (style) app.wantedStyle = null;
}

export function classColors() {
  return app.classes.map(({ id, color }) => ({ id, color, visible: !app.hidden.has(id) }));
}
