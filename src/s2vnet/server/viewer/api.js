// The server as seen from the page: requests and the live connection. Knows neither the page nor NiiVue.

const RETRY_MS = [300, 700, 1500, 3000, 5000];
const HEAD_BYTES = 4;

/** What a request was refused for; its message is for the user. */
export class Refused extends Error {}

/** The server could not be reached at all. */
export class Unreachable extends Error {}

export const info = () => json("api/info");
export const scans = () => json("api/scans");
export const open = (image) => json("api/sessions", { method: "POST", ...body({ image }) });
export const suggestion = (name) => json(`api/sessions/${name}/suggestion`);
export const log = (name) => bytes(`api/sessions/${name}/log`);
export const labels = (name, format) => bytes(`api/sessions/${name}/labels?format=${encodeURIComponent(format)}`);
export const image = (name, progress) => bytes(`api/sessions/${name}/image`, progress);
export const replace = (name, entries) =>
  json(`api/sessions/${name}/prompts`, { method: "PUT", ...body({ op: "replace", entries }) });

/** Keep a file on the server; it answers with the scan. */
export function send(file) {
  const form = new FormData();
  form.append("file", file);
  return json("api/scans", { method: "POST", body: form });
}

/** Head and compressed labels of a binary message. */
export function split(message) {
  const length = new DataView(message).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(message, HEAD_BYTES, length)));
  return { head, packed: new Uint8Array(message, HEAD_BYTES + length) };
}

/**
 * The live connection to a session. It comes back by itself; what is said meanwhile waits and is sent then, in order.
 * Handlers: message(text or ArrayBuffer), link(connected, code of the end).
 */
export class Live {
  #socket = null;
  #handlers;
  #waiting = [];
  #tries = 0;
  #timer = 0;
  #closed = false;
  #taken = false; // whether the server has taken this connection: it may refuse one that is open
  #url;

  constructor(name, handlers) {
    this.#url = new URL(`api/sessions/${name}/live`, location.href);
    this.#url.protocol = this.#url.protocol === "https:" ? "wss:" : "ws:";
    this.#url.hash = "";
    this.#handlers = handlers;
    this.connect();
  }

  /** Operations that wait for the connection. */
  get waiting() {
    return this.#waiting.length;
  }

  connect() {
    clearTimeout(this.#timer);
    if (this.#closed || (this.#socket && this.#socket.readyState < WebSocket.CLOSING)) return;
    const socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#handlers.message(data);
    socket.onclose = ({ code }) => this.#lost(socket, code);
    this.#socket = socket;
  }

  send(operation) {
    const text = JSON.stringify(operation);
    if (this.#taken && this.#socket.readyState === WebSocket.OPEN) this.#socket.send(text);
    else this.#waiting.push(text);
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  /** The server told something by this connection, so it listens. */
  taken() {
    if (this.#taken) return;
    this.#taken = true;
    for (const text of this.#waiting.splice(0)) this.#socket.send(text);
  }

  #opened() {
    this.#tries = 0;
    this.#taken = false;
    this.#handlers.link(true);
  }

  #lost(socket, code) {
    if (this.#closed || socket !== this.#socket) return;
    this.#taken = false;
    this.#handlers.link(false, code);
    const wait = RETRY_MS[Math.min(this.#tries++, RETRY_MS.length - 1)];
    this.#timer = setTimeout(() => this.connect(), wait);
  }
}

function body(content) {
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(content) };
}

async function json(url, options) {
  return (await answer(url, options)).json();
}

async function bytes(url, progress = () => {}) {
  const response = await answer(url);
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

async function answer(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw new Unreachable("The server does not answer. Is it still running?", { cause: error });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `the server answered ${response.status}`;
  throw new Refused(detail);
}
