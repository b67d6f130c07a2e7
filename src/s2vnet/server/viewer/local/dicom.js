// DICOM files to NIfTI, by dcm2niix.

import { Dcm2niix } from "../vendor/index.jpeg.js";

/**
 * Convert the files of a series to one NIfTI file; of several series, that with the largest file. Throws an Error with
 * one line for users.
 */
export async function convertSeries(files) {
  const converter = new Dcm2niix();
  await converter.init();
  try {
    // not compressed: the file stays in memory; the name of the series only, which names no patient
    const converted = await converter.input(files).z("n").b("n").f("series_%s").run();
    const images = converted.filter(({ name }) => name.endsWith(".nii"));
    if (images.length === 0) throw new Error("no DICOM series with image planes was found in these files");
    return images.sort((a, b) => b.size - a.size)[0];
  } finally {
    converter.worker.terminate();
  }
}

/** Files of dropped items, those in folders included. */
export async function filesOf(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  return (await Promise.all(entries.map(collect))).flat();
}

async function collect(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return files;
    files.push(...(await Promise.all(batch.map(collect))).flat());
  }
}
