// Operations on a whole class. Each becomes an entry of the log that states the class's voxels, so that undo, replay and
// saved logs hold.

import { encodeBlock } from "../network/mask_codec.js";
import { showMessage } from "../panels/status.js";
import { app } from "../state/app.js";
import { sendOperation } from "./commands.js";
import { fillHoles, grow, removeIslands, shapeOf, shrink, smooth } from "./class_shapes.js";

const OPERATIONS = { islands: removeIslands, holes: fillHoles, smooth, grow, shrink };

/** Apply an operation, by its name in the list, to the current class. */
export async function changeClass(name) {
  const { session, tools } = app;
  if (!session?.settled) return showMessage("wait until the labels are up to date");
  if (tools.classId === 0) return showMessage("choose a class; background has no shape");
  const { revision } = session.state;
  const shape = shapeOf(session.labels, session.state.shape, tools.classId);
  if (!shape) return showMessage("the class has no voxels yet");
  const mask = OPERATIONS[name](shape);
  if (mask.every((value, n) => Boolean(value) === Boolean(shape.mask[n]))) return showMessage("nothing to change");
  if (!mask.some(Boolean)) return showMessage("nothing would be left of the class");
  const entry = { kind: "extent", class_id: tools.classId, ...(await encodeBlock(mask, shape)) };
  if (session !== app.session || revision !== session.state.revision) return showMessage("the labels have changed; try again");
  sendOperation({ op: "add", entries: [entry] });
}
