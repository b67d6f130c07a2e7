// What the last operation changed: ml of each class, and how many slices off the screen; a command goes to them.

import { Flash } from "../drawing/flash.js";
import { app } from "../state/app.js";
import { centerOnSlice } from "../state/changes.js";
import { findClass } from "../state/classes.js";
import { $, createElement } from "./dom.js";

const MOST_CLASSES = 4;
const SMALLEST_ML = 0.1; // of a class that is listed, unless all are smaller
let changes = null;
let unseen = []; // slices across the network's axis, the one with most changes first

/** Report the changes of the last operation; null clears the report. */
export function reportChanges(found) {
  changes = found;
  app.flash ??= new Flash(app.scene);
  app.flash.start(found);
  unseen = found ? slicesOffScreen(found) : [];
  show();
}

/** Go to the slice off the screen with most changes, and let them flash again. Returns whether there is one. */
export function goToChanges(showVoxel) {
  if (unseen.length === 0) return false;
  const { plane } = app.session.state;
  const index = unseen.shift();
  showVoxel(centerOnSlice(changes, plane, index), app.scene.normalOf(plane));
  app.flash.start(changes);
  show();
  return true;
}

function slicesOffScreen({ slices }) {
  const { scene, session } = app;
  const { plane } = session.state;
  const shown = scene.tiles().filter(({ normal }) => scene.fileAxis(normal) === plane);
  const onScreen = shown.length ? scene.at[plane] : null;
  const counts = slices[plane];
  return [...counts.keys()].filter((k) => counts[k] && k !== onScreen).sort((a, b) => counts[b] - counts[a]);
}

function show() {
  $("changes").replaceChildren(...(changes ? describe() : []));
  $("changes-next").hidden = unseen.length === 0;
  const others = `${unseen.length} other ${unseen.length === 1 ? "slice" : "slices"} changed`;
  $("changes-next-text").textContent = others;
}

/** One item a class, the largest change first. */
function describe() {
  const { session, voxelMl } = app;
  const items = [...changes.classes].filter(([id]) => id > 0).map(([id, [gained, lost]]) => ({ id, ml: [gained, lost].map((n) => n * voxelMl()) }));
  items.sort((a, b) => Math.max(...b.ml) - Math.max(...a.ml));
  const large = items.filter(({ ml }) => Math.max(...ml) >= SMALLEST_ML);
  const listed = (large.length ? large : items).slice(0, MOST_CLASSES);
  return listed.map(({ id, ml: [gained, lost] }) => {
    const { name, color } = findClass(id, app.classes, session.state.entries);
    const swatch = createElement("span", { className: "swatch" });
    swatch.style.setProperty("--color", color);
    const amounts = [gained && `+${formatMl(gained)}`, lost && `−${formatMl(lost)}`].filter(Boolean).join(" ");
    return createElement("span", { className: "change" }, swatch, `${name} ${amounts} ml`);
  });
}

const formatMl = (ml) => (ml < 0.1 ? ml.toFixed(2) : ml < 10 ? ml.toFixed(1) : Math.round(ml).toLocaleString("en"));
