// Window and level of the image.

import { $ } from "../panels/dom.js";
import { app } from "../state/app.js";

const WINDOWS = {
  abdomen: [40, 400],
  liver: [60, 160],
  lung: [-600, 1500],
  bone: [400, 1800],
  brain: [40, 80],
};

const SLIDER_STEPS = 1000;
const DRAG_PER_PIXEL = 1 / 400; // of the window's width

/** Intensities `[low, high]` of a preset; undefined if they depend on the image. */
export const presetRange = (name) => WINDOWS[name]?.map((_, n, [middle, width]) => middle + (n - 0.5) * width);

export function setPreset(name) {
  if (name === "own" || !app.scene.shape) return;
  const [low, high] = presetRange(name) ?? app.scene.automatic;
  setWindow((low + high) / 2, high - low, name);
}

export function setWindow(middle, width, name = "own") {
  if (!app.scene.shape) return;
  app.scene.setWindow(middle - width / 2, middle + width / 2);
  const [lowest, highest] = app.scene.range;
  const range = Math.max(highest - lowest, width) || 1;
  Object.assign($("level"), { min: lowest, max: highest, step: range / SLIDER_STEPS, value: middle });
  Object.assign($("width"), { min: range / SLIDER_STEPS, max: range, step: range / SLIDER_STEPS, value: width });
  $("window").value = name;
  $("window-text").textContent = `${formatNumber(middle)} / ${formatNumber(width)}`;
}

function formatNumber(value) {
  return Math.abs(value) >= 10 ? Math.round(value) : Number(value.toPrecision(2));
}

export function sliderWindow() {
  return [Number($("level").value), Number($("width").value)];
}

/** Change the window by a drag (CSS pixels): its width with dx, its level with dy. */
export function dragWindow(dx, dy) {
  const [low, high] = app.scene.window;
  const width = high - low;
  const newWidth = width * Math.exp(2 * dx * DRAG_PER_PIXEL);
  setWindow((low + high) / 2 + dy * width * DRAG_PER_PIXEL, newWidth);
}
