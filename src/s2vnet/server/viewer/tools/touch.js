// Two fingers pan and zoom; one finger does what the tool does.

/** Follow touches on the canvas; `cancel` gives up what one finger has begun. To be called before other listeners are added. */
export function followTouch(canvas, scene, cancel) {
  const fingers = new Map();
  let tile = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    fingers.set(event.pointerId, event);
    if (fingers.size < 2) return;
    event.stopImmediatePropagation(); // a further finger draws nothing
    if (fingers.size > 2) return;
    cancel();
    const { x, y } = middle([...fingers.values()]);
    tile = scene.pick(x, y)?.tile ?? null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = [...fingers.values()];
    fingers.set(event.pointerId, event);
    if (fingers.size !== 2) return;
    event.stopImmediatePropagation();
    const [from, to] = [middle(before), middle([...fingers.values()])];
    if (!tile) return;
    scene.pan(tile, to.x - from.x, to.y - from.y);
    scene.zoom(tile, to.x, to.y, to.distance / Math.max(1, from.distance));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, ({ pointerId }) => fingers.delete(pointerId));
  }
}

function middle([a, b]) {
  const distance = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  return { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2, distance };
}
