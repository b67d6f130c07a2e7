// What a reload of the page keeps: slices, window, layout, hidden classes, tool and class.

import { setPreset, setWindow } from "../drawing/window_level.js";
import { $ } from "../panels/dom.js";
import { app } from "./app.js";

const KEY = "s2vnet-view";

/** Keep the view of the session on the screen in this tab, until it is closed. */
export function keepView() {
  const { displayed, scene, tools } = app;
  if (!displayed || displayed !== app.session) return;
  const view = {
    session: displayed.name,
    at: scene.at,
    layout: $("layout").value,
    preset: $("window").value,
    window: scene.window,
    hidden: [...app.hidden],
    tool: tools.tool,
    classId: tools.classId,
  };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(view));
  } catch {
    // without storage a reload begins anew
  }
}

/** Show a session as it was kept; its image has just been opened. */
export function restoreView(session) {
  const view = readView();
  if (view?.session !== session.name) return;
  const { scene, tools } = app;
  if (document.querySelector(`#layout option[value="${CSS.escape(view.layout)}"]`)) {
    $("layout").value = view.layout;
    scene.setLayout(view.layout);
  }
  const [low, high] = view.window;
  if (view.preset === "own") setWindow((low + high) / 2, high - low);
  else setPreset(view.preset);
  app.hidden = new Set(view.hidden);
  tools.choose(view.tool);
  tools.chooseClass(view.classId);
  scene.goTo(view.at);
}

function readView() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}
