// Whether an image contradicts the modality that a model is for, by its voxels, as in s2vnet/data/modality.py.

const SAMPLE = 1_000_000;
const FAT_HU = -50;
const MIN_FRACTION_BELOW_FAT = 0.001;
const AIR_HU = -100;
const MIN_FRACTION_OF_AIR = 0.2;

/** One line if the image is not of the modality (`CT`, `MR` or null), else null; `image` as in prepared_slices.js. */
export function modalityConflict(expected, { channels, slope, inter }) {
  const [values] = channels;
  const step = Math.max(1, Math.floor(values.length / SAMPLE));
  let [count, belowFat, air, lowest] = [0, 0, 0, Infinity];
  for (let at = 0; at < values.length; at += step, count++) {
    const value = Number(values[at]) * slope + inter;
    belowFat += value < FAT_HU;
    air += value < AIR_HU;
    if (value < lowest) lowest = value;
  }
  const shown = Number(lowest.toPrecision(4));
  if (expected === "CT" && belowFat / count < MIN_FRACTION_BELOW_FAT) {
    return `no CT in HU, which the model is for: its smallest value is ${shown}, but fat and air lie below ${FAT_HU} HU`;
  }
  if (expected === "MR" && air / count >= MIN_FRACTION_OF_AIR) {
    return `a CT by its values, which reach down to ${shown}, and the model is for MR`;
  }
  return null;
}
