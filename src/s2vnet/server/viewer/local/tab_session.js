// A session in this tab: a scan that a worker segments, with the messages of a server's session (s2vnet/server/schemas.py).

const HEAD_BYTES = 4;
const FORMATS = ["nii.gz"];
const LOG_FORMAT = 2;
const REFUSED = 1008; // WebSocket close code: a message violates the policy
export const NO_PROMPTS = "this page segments automatically; to correct by clicks, install s2vnet";

/** A scan and its labels. Listeners get the messages of a server: JSON text, or binary blocks of labels. */
export class TabSession {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #listener = null;
  #messages = []; // for a listener that comes later
  #state;
  #models;
  #saving = [];

  /** `name` of the session; `scan`: `{id, name, file}`; `models` as in models.json, of which the first fitting one is used. */
  constructor(name, scan, models) {
    this.name = name;
    this.scan = scan;
    this.#state = {
      type: "state",
      session: name,
      image: { id: scan.id, name: scan.name },
      model: models[0].name,
      shape: null,
      affine: null,
      plane: null,
      status: "opening",
      error: null,
      progress: 0,
      revision: 0,
      shown: 0,
      entries: [],
      can_undo: false,
      can_redo: false,
      notes: [],
      unlike: [],
      formats: FORMATS,
    };
    this.#models = models;
    this.#worker.onmessage = ({ data }) => this.#onMessage(data);
    this.#worker.onerror = (event) => this.#fail(event.message || "the computation could not be started; reload the page");
    this.#worker.postMessage({ type: "open", file: scan.file, models });
    this.#send(this.#text());
  }

  /** Send the messages so far and all later ones to a function. */
  listen(listener) {
    this.#listener = listener;
    for (const message of this.#messages.splice(0)) listener(message);
  }

  /** Stop computing; the session cannot be used afterwards. */
  close() {
    this.#worker.terminate();
    this.#listener = null;
  }

  /** Labels as a gzipped NIfTI file. */
  labels() {
    if (this.#state.status !== "ready") return Promise.reject(new Error("the scan is still being segmented"));
    this.#worker.postMessage({ type: "save" });
    return new Promise((resolve, reject) => this.#saving.push({ resolve, reject }));
  }

  /** The prompt log, as s2vnet/interactive/prompt_log.py writes it. */
  log() {
    const { shape, affine, entries, notes, model } = this.#state;
    const { classes: listed, sha256 } = this.#models.find(({ name }) => name === model);
    const classes = Object.fromEntries(listed.map(({ id, name }) => [id, name]));
    return { format: LOG_FORMAT, model_sha256: sha256, shape, affine, classes, entries, notes };
  }

  #onMessage({ type, ...detail }) {
    if (type === "state") this.#update(detail);
    else if (type === "block") this.#send(packBlock(detail));
    else if (type === "done") this.#update({ status: "ready", progress: 1 });
    else if (type === "file") this.#saving.shift().resolve(detail.file);
    else this.#fail(detail.detail);
  }

  #fail(error) {
    const saving = this.#saving.shift();
    if (saving) saving.reject(new Error(error));
    else this.#update({ status: "failed", error });
  }

  #update(changes) {
    Object.assign(this.#state, changes);
    this.#send(this.#text());
  }

  #text() {
    return JSON.stringify(this.#state);
  }

  #send(message) {
    if (this.#listener) this.#listener(message);
    else this.#messages.push(message);
  }
}

/** A message with labels: the length of its JSON header, the header, and the compressed labels. */
function packBlock({ start, shape, packed, final }) {
  const head = new TextEncoder().encode(JSON.stringify({ type: "block", revision: 0, start, shape, final }));
  const message = new Uint8Array(HEAD_BYTES + head.length + packed.length);
  new DataView(message.buffer).setUint32(0, head.length, true);
  message.set(head, HEAD_BYTES);
  message.set(packed, HEAD_BYTES + head.length);
  return message.buffer;
}

/** The part of WebSocket that the viewer uses, connected to a session of this tab. */
export class TabSocket {
  readyState = WebSocket.CONNECTING;
  #session;

  /** `session`: a TabSession, or undefined where the address names none of this tab. */
  constructor(session) {
    this.#session = session;
    setTimeout(() => this.#open());
  }

  send(text) {
    const { op } = JSON.parse(text);
    if (op) this.onmessage({ data: JSON.stringify({ type: "problem", detail: NO_PROMPTS }) });
  }

  close() {
    this.readyState = WebSocket.CLOSED;
    this.#session?.close();
  }

  #open() {
    if (this.readyState === WebSocket.CLOSED) return;
    this.readyState = WebSocket.OPEN;
    this.onopen();
    if (this.#session) return this.#session.listen((data) => this.onmessage({ data }));
    const detail = "this scan is no longer open; open its file again";
    this.onmessage({ data: JSON.stringify({ type: "problem", detail }) });
    this.readyState = WebSocket.CLOSED;
    this.onclose({ code: REFUSED });
  }
}
