// State that the parts of the page share.

export const app = {
  info: null, // of the server
  scene: null,
  overlay: null,
  tools: null,
  session: null,
  classList: null,
  promptList: null,
  hidden: new Set(), // classes that are not shown
  scans: [],
  highlighted: null, // index of the prompt pointed at in the list
  displayed: null, // session whose image is on the screen
  failed: null, // session whose image cannot be shown
  downloaded: null, // downloaded fraction of the image, null when none is being downloaded
  labelsHidden: false,
  pointer: null, // what the pointer is over
  statusText: "",
  generation: 0, // grows with every session that is opened; results of earlier ones are dropped
};
