// Automatic segmentation of one image, as in s2vnet/inference/streaming.py and segmentation.py.

import { BlockWriter } from "./block_writer.js";
import { FeatureCache } from "./feature_cache.js";
import { fromHalf, toHalf } from "./float16.js";
import { PreparedSlices } from "./prepared_slices.js";
import { argmax, softmax, sweepBothWays } from "./sweep.js";

const BATCH = 8;

/**
 * Segment an image. `image` as in prepared_slices.js, `plan` as in a model's model.json, `limit`: bytes for features.
 *
 * `onBlock(block)` is called with labels of file slices, `{start, shape, labels}` (Uint8Array, k fastest): first with
 * those of a few slices, decoded independently of each other, then with those of each slice that one sweep has passed,
 * and finally with those of all slices, `final` being true. `onProgress(share)` is called with each slice. Both may
 * return promises.
 *
 * Resolves to the grid of the slices. Throws an Error for another number of channels than the plan's.
 */
export async function segment(network, image, plan, { limit, onBlock = () => {}, onProgress = () => {} }) {
  const { slices, features } = await choose(network, image, plan, limit, onBlock);
  const { grid } = slices;
  const [scores, labels] = [new Array(grid.depth), new Array(grid.depth)];
  let [writer, done] = [null, 0];
  for await (const { d, masks, size, passes } of sweepBothWays(network, features, grid.depth)) {
    writer ??= new BlockWriter(grid, size, network.classes);
    if (passes === 2) {
      scores[d] = toHalf(masks);
      labels[d] = argmax(fromHalf(scores[d]), network.classes);
    } else {
      await onBlock(writer.preview(d, masks));
    }
    await onProgress(++done / (2 * grid.depth));
  }
  writer.setScores(scores, labels, plan.smallest_part ?? 0);
  for (let slice = 0; slice < grid.size[0]; slice++) await onBlock(writer.final(slice));
  return grid;
}

/**
 * Prepared slices of an image, and a function from slice to features. Where the headers of training images mirrored an
 * axis, the orientation in which the network recognises more is chosen (docs/decisions/008-mirrored-headers.md).
 */
async function choose(network, image, plan, limit, onBlock) {
  const straight = PreparedSlices.of(image, plan);
  const orientations = plan.mirrored ? [straight.mirror("RAS".indexOf(plan.mirrored)), straight] : [straight];
  let best = null;
  for (const slices of orientations) {
    const cache = new FeatureCache((d) => network.encode(slices.withNeighbours(d), slices.grid.padded), limit);
    const decoded = new Map();
    for (const d of firstBatch(slices.grid.depth)) {
      decoded.set(d, await network.decode(await cache.get(d), network.initialState(0)));
    }
    const score = recognitionScore([...decoded.values()], network.classes);
    if (best === null || score > best.score) best = { slices, score, decoded, features: (d) => cache.get(d) };
  }
  for (const [d, { logits, size }] of best.decoded) {
    await onBlock(new BlockWriter(best.slices.grid, size, network.classes).preview(d, softmax(logits, network.classes)));
  }
  return best;
}

/** Slices that are encoded first; they span the volume and contain the middle one. */
export function firstBatch(depth) {
  const step = Math.ceil(depth / BATCH);
  const batch = [];
  for (let d = Math.floor(depth / 2) % step; d < depth; d += step) batch.push(d);
  return batch;
}

/** How clearly classes are recognised: the sum over classes of presence times extent, where that is largest. */
function recognitionScore(slices, classes) {
  const best = new Float32Array(classes);
  for (const { logits, presence } of slices) {
    const probabilities = softmax(logits, classes);
    const area = probabilities.length / classes;
    for (let k = 1; k < classes; k++) {
      const extent = Math.sqrt(probabilities.subarray(k * area, (k + 1) * area).reduce((sum, value) => sum + value, 0));
      best[k] = Math.max(best[k], extent / (1 + Math.exp(-presence[k])));
    }
  }
  return best.reduce((sum, value) => sum + value, 0);
}
