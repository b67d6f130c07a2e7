// Layouts: which planes are shown where.

export const RENDER = "render";
const GAP = 2; // CSS pixels between tiles
const LARGE = 0.6; // share of the width of the enlarged plane
const NORMALS = { axial: 2, coronal: 1, sagittal: 0, render: RENDER };

/** Names of the layouts: one plane alone, or one enlarged beside the others. */
export const LAYOUTS = {
  planes3d: [2, 1, 0, RENDER],
  coronal3d: [1, 2, 0, RENDER],
  sagittal3d: [0, 2, 1, RENDER],
  render3d: [RENDER, 2, 1, 0],
  planes: [2, 1, 0],
};

/** Layout in which a plane (RAS normal, or RENDER) is enlarged; without 3D where the current one has none. */
export function enlarged(layout, plane) {
  if (layout === "planes" && plane === 2) return "axial";
  const single = Object.keys(NORMALS).find((name) => NORMALS[name] === plane);
  if (LAYOUTS[layout]?.[0] === plane || layout === "planes") return single;
  return Object.keys(LAYOUTS).find((name) => LAYOUTS[name][0] === plane);
}

/** Tiles of a layout, `{plane, box}`: the first is enlarged at the left, the others share the right column. */
export function arrange(layout, width, height) {
  if (layout in NORMALS) return [{ plane: NORMALS[layout], box: { left: 0, top: 0, width, height } }];
  const [first, ...others] = LAYOUTS[layout] ?? LAYOUTS.planes;
  const split = Math.round(LARGE * width);
  const tiles = [{ plane: first, box: { left: 0, top: 0, width: split - GAP, height } }];
  others.forEach((plane, n) => {
    const [top, bottom] = [n, n + 1].map((edge) => Math.round((edge * height) / others.length));
    tiles.push({ plane, box: { left: split, top, width: width - split, height: bottom - top - (n + 1 < others.length ? GAP : 0) } });
  });
  return tiles;
}
