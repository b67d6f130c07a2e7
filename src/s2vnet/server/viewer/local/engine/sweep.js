// Sweeps: the decoder's passes over all slices of a volume, in rising and in falling order, as in
// s2vnet/inference/sweep.py. The result of a slice is the mean of both.

import { fromHalf, toHalf } from "./float16.js";

/**
 * Decode a volume in both orders. `network` as in network.js; `features(d)` resolves to the features of a slice.
 * Yields `{d, masks, size, passes}` after each slice of each sweep: its class probabilities (K, h, w) by this sweep, or,
 * where the other one has passed it already, by both; the cells (h, w); and the number of sweeps, 1 or 2.
 */
export async function* sweepBothWays(network, features, depth) {
  const pending = new Map();
  const states = [network.initialState(1), network.initialState(-1)];
  for (let step = 0; step < depth; step++) {
    for (const [n, d] of [step, depth - 1 - step].entries()) {
      const decoded = await network.decode(await features(d), states[n]);
      // rounded between slices, so that keeping them in float16 does not change the result
      const halves = toHalf(network.propagates ? decoded.state.masks : softmax(decoded.logits, network.classes));
      const masks = fromHalf(halves);
      states[n] = { ...decoded.state, masks: network.propagates ? masks : new Float32Array(masks.length) };
      if (!pending.has(d)) {
        pending.set(d, halves);
        yield { d, masks, size: decoded.size, passes: 1 };
      } else {
        const other = fromHalf(pending.get(d));
        pending.delete(d);
        yield { d, masks: masks.map((value, at) => (value + other[at]) / 2), size: decoded.size, passes: 2 };
      }
    }
  }
}

/** Class probabilities (K, h, w) of logits (K, h, w). */
export function softmax(logits, classes) {
  const cells = logits.length / classes;
  const probabilities = new Float32Array(logits.length);
  for (let cell = 0; cell < cells; cell++) {
    let highest = -Infinity;
    for (let at = cell; at < logits.length; at += cells) highest = Math.max(highest, logits[at]);
    let total = 0;
    for (let at = cell; at < logits.length; at += cells) total += probabilities[at] = Math.exp(logits[at] - highest);
    for (let at = cell; at < logits.length; at += cells) probabilities[at] /= total;
  }
  return probabilities;
}

/** Index (h, w) of the largest of K values (K, h, w), the first of equal ones. */
export function argmax(values, classes) {
  const cells = values.length / classes;
  const labels = new Uint8Array(cells);
  const best = values.slice(0, cells);
  for (let k = 1, at = cells; k < classes; k++) {
    for (let cell = 0; cell < cells; cell++, at++) {
      if (values[at] > best[cell]) [best[cell], labels[cell]] = [values[at], k];
    }
  }
  return labels;
}
