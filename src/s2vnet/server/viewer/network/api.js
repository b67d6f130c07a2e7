// HTTP requests to the server.

import { transport } from "./transport.js";

/** The server refused a request; the message is for the user. */
export class Refused extends Error {}

/** The server could not be reached at all. */
export class Unreachable extends Error {}

export const info = () => json("api/info");
export const scans = () => json("api/scans");
export const sessions = (names) => json(`api/sessions?${new URLSearchParams(names.map((name) => ["name", name]))}`);
export const open = (image, model) => json("api/sessions", { method: "POST", ...body({ image, model }) });
export const suggestions = (name) => json(`api/sessions/${name}/suggestions`);
export const log = (name) => bytes(`api/sessions/${name}/log`);
export const labels = (name, format) => bytes(`api/sessions/${name}/labels?format=${encodeURIComponent(format)}`);
export const image = (name, progress) => bytes(`api/sessions/${name}/image`, progress);
export const labelDescriptions = (name) => bytes(`api/sessions/${name}/label-descriptions`);
export const setClass = (name, id, style) => json(`api/sessions/${name}/classes/${id}`, { method: "PUT", ...body(style) });
export const loadLabels = (name, file) => json(`api/sessions/${name}/labels`, { method: "POST", body: formOf(file) });
export const replace = (name, entries) =>
  json(`api/sessions/${name}/prompts`, { method: "PUT", ...body({ op: "replace", entries }) });

/** Upload a file; resolves to the scan. */
export function send(file) {
  return json("api/scans", { method: "POST", body: formOf(file) });
}

function formOf(file) {
  const form = new FormData();
  form.append("file", file);
  return form;
}

function body(content) {
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(content) };
}

async function json(url, options) {
  return (await request(url, options)).json();
}

async function bytes(url, progress = () => {}) {
  const response = await request(url);
  const total = Number(response.headers.get("content-length"));
  const reader = response.body.getReader();
  const parts = [];
  let received = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    received += part.value.length;
    progress(total ? received / total : 0);
  }
  return new Blob(parts);
}

async function request(url, options) {
  let response;
  try {
    response = await transport.fetch(url, options);
  } catch (error) {
    throw new Unreachable("The server does not respond; check that it is running.", { cause: error });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `the server responded with status ${response.status}`;
  throw new Refused(detail);
}
