// node ohif_node.mjs MODULES ADDRESS SERIES VOXELS: OHIF's client and reader in node; the answers as JSON.
// axios has no transport for FormData in node, so requests are sent by fetch, as browsers send them.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, address, series, file] = process.argv.slice(2);
const load = async name => (await import(pathToFileURL(path.join(modules, name)))).default;
const axios = await load('node_modules/axios/index.js');
axios.defaults.adapter = async config => {
  const { method, url, data, responseType } = config;
  const headers = data instanceof FormData ? {} : { 'content-type': 'application/json' };
  const response = await fetch(url, { method: method.toUpperCase(), headers, body: data });
  const body = responseType === 'arraybuffer' ? await response.arrayBuffer() : await response.text();
  const answer = { status: response.status, data: body, headers: {}, config };
  if (!response.ok) throw Object.assign(new Error(`status ${response.status}`), { response: answer });
  return answer;
};
console.debug = console.log = () => {};
const { callAll } = await import('./ohif_calls.mjs');
const done = await callAll(await load('MonaiLabelClient.mjs'), address, series, fs.readFileSync(file));
const { header, image } = (await load('SegmentationReader.mjs')).parseNrrdData(done['infer automatic'].data);
done.header = { sizes: header.sizes, type: header.type };
done.segmentation.data = Array.from(new Uint8Array(image));
for (const name of Object.keys(done)) {
  if (done[name].data instanceof ArrayBuffer) done[name].data = done[name].data.byteLength;
}
process.stdout.write(JSON.stringify(done));
