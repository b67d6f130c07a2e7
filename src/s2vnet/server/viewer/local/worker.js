// Web Worker that reads a scan and segments it. Messages to it: `{type: "open", file, models}` and `{type: "save"}`, as in
// tab_session.js; messages from it: `{type: "state", ...}`, `{type: "block", start, shape, packed, final}` with labels
// compressed by zlib, `{type: "done"}`, `{type: "file", file}` and `{type: "failed", detail}`.

import * as ort from "../vendor/ort.wasm.min.mjs";
import { SliceGrid } from "./engine/geometry.js";
import { modalityConflict } from "./engine/modality.js";
import { Network } from "./engine/network.js";
import { compress, readImage, writeLabels } from "./engine/nifti.js";
import { segment } from "./engine/segment.js";

const FEATURES_NBYTES = 600 * 2 ** 20;
const MOST_THREADS = 8;
const PAGE = new URL("../", import.meta.url);

let image = null;
let labels = null;

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "open") await open(data);
    else self.postMessage({ type: "file", file: new Blob([await writeLabels(image, labels)], { type: "application/gzip" }) });
  } catch (error) {
    self.postMessage({ type: "failed", detail: describe(error) });
  }
};

async function open({ file, models }) {
  image = await readImage(new Uint8Array(await file.arrayBuffer()));
  const { model, conflict } = choose(models);
  const loading = loadNetwork(model);
  labels = new Uint8Array(image.shape.reduce((a, b) => a * b));
  const { shape, affine, notes } = image;
  const plane = new SliceGrid(shape, affine, model.plan).fileAxis;
  const unlike = conflict ? [conflict] : [];
  self.postMessage({ type: "state", model: model.name, shape, affine, plane, notes, unlike });
  await sendBlock({ start: [0, 0, 0], shape, labels }); // after a block of the whole image a client has all labels
  await segment(await loading, image, model.plan, {
    limit: FEATURES_NBYTES,
    onBlock: sendBlock,
    onProgress: (progress) => self.postMessage({ type: "state", progress }),
  });
  self.postMessage({ type: "done" });
}

/** First model that fits the image's channels and modality, else the first one, and in what the image contradicts it. */
function choose(models) {
  const candidates = models.map((model) => ({ model, conflict: modalityConflict(model.modality, image) }));
  const fits = ({ model, conflict }) => !conflict && model.channels.length === image.channels.length;
  return candidates.find(fits) ?? candidates[0];
}

async function loadNetwork({ name, config }) {
  ort.env.wasm.wasmPaths = new URL("vendor/", PAGE).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  const [encode, decode] = await Promise.all(["encode", "decode"].map((graph) => fetchBytes(`models/${name}/${graph}.onnx`)));
  return Network.load(ort, encode, decode, config);
}

async function fetchBytes(path) {
  const response = await fetch(new URL(path, PAGE));
  if (!response.ok) throw new Error(`${path} is missing from this page; its operator has to build it again`);
  return new Uint8Array(await response.arrayBuffer());
}

async function sendBlock({ start, shape, labels: block, final = false }) {
  const [, nj, nk] = image.shape;
  for (let i = 0, at = 0; i < shape[0]; i++) {
    for (let j = 0; j < shape[1]; j++, at += shape[2]) {
      labels.set(block.subarray(at, at + shape[2]), ((start[0] + i) * nj + start[1] + j) * nk + start[2]);
    }
  }
  const packed = await compress(block, "deflate");
  self.postMessage({ type: "block", start, shape, packed, final }, [packed.buffer]);
}

function describe(error) {
  if (error instanceof RangeError) return "the scan needs more memory than this browser allows; crop it, or install s2vnet";
  return error.message ?? String(error);
}
