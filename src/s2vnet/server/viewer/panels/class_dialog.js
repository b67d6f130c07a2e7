// Add, rename and recolour classes.

import * as api from "../network/api.js";
import { app } from "../state/app.js";
import { $ } from "./dom.js";
import { showProblem } from "./messages.js";

const MAX_CLASSES = 256; // label values 0 to 255
const ADDED_COLORS = ["#ff5fd2", "#ffd43b", "#4de1ff", "#b8ff5c", "#ff922b", "#b197fc"];

/** Ask for name and colour; resolves to `{name, color}`, or null if the user cancels. */
function ask(title, { name, color }) {
  $("class-dialog-title").textContent = title;
  $("class-name").value = name;
  $("class-color").value = color;
  $("class-dialog").returnValue = "";
  $("class-dialog").showModal();
  $("class-name").select();
  return new Promise((resolve) => {
    const answer = () => {
      const typed = $("class-name").value.trim();
      const saved = $("class-dialog").returnValue === "save" && typed;
      resolve(saved ? { name: typed, color: $("class-color").value } : null);
    };
    $("class-dialog").addEventListener("close", answer, { once: true });
  });
}

/** Add a class, which becomes the current one. `send` sends an operation. */
export async function addClass(send) {
  const { session, classes } = app;
  if (!session?.state) return;
  const id = Math.max(...classes.map((one) => one.id)) + 1;
  if (id >= MAX_CLASSES) return showProblem("No label value is left for another class.");
  const added = classes.filter((one) => one.added).length;
  const color = ADDED_COLORS[added % ADDED_COLORS.length];
  const answer = await ask("Add a class", { name: "", color });
  if (!answer || session !== app.session) return;
  app.wantedClass = id;
  send({ op: "add", entries: [{ kind: "class", class_id: id, name: answer.name }] });
  if (answer.color !== color) app.wantedStyle = { id, style: answer };
}

/** Rename and recolour a class. */
export async function editClass(id) {
  const { session } = app;
  const found = app.classes.find((one) => one.id === id);
  if (!session?.state || !found) return;
  const answer = await ask(`Class ${id}`, found);
  if (answer && session === app.session) await setStyle(session, id, answer);
}

export async function setStyle(session, id, style) {
  try {
    await api.setClass(session.name, id, style);
  } catch (error) {
    showProblem(error.message);
  }
}
