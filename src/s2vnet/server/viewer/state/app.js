// State shared by the modules of the page.

import { voxelVolumeMl } from "../drawing/voxels.js";

export const app = {
  info: null, // of the server
  model: null, // of the session: one of `info.models`
  /** Classes of the session, or of its model before it is open. */
  get classes() {
    const { session, model } = app;
    return session?.state?.classes ?? model.classes;
  },
  scene: null,
  overlay: null,
  tools: null,
  session: null,
  classList: null,
  promptList: null,
  flash: null, // of changed voxels
  voxelMl: () => voxelVolumeMl(app.session?.state?.affine),
  hidden: new Set(), // classes that are not shown
  scans: [],
  sessions: [], // that can be continued, newest first
  wantedClass: null, // label value of an added class that becomes the current one
  wantedStyle: null, // its name and colour, if not the usual one
  highlighted: null, // index of the prompt pointed at in the list
  displayed: null, // session whose image is on the screen
  failed: null, // session whose image cannot be shown
  downloaded: null, // downloaded fraction of the image; null if it is not being downloaded
  labelsHidden: false,
  pointer: null, // last result of `Scene.pick` for the pointer
  statusText: "",
  generation: 0, // increases with every session that is opened; results of earlier ones are discarded
};
