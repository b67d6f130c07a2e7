// WebSocket connection to a session.

import { transport } from "./transport.js";

const RETRY_MS = [300, 700, 1500, 3000, 5000];
const HEAD_BYTES = 4;

/** Header and compressed labels of a binary message. */
export function splitMessage(message) {
  const length = new DataView(message).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(message, HEAD_BYTES, length)));
  return { head, packed: new Uint8Array(message, HEAD_BYTES + length) };
}

/**
 * A WebSocket to a session that reconnects automatically. Operations that the server has not taken are sent again, in order.
 * Handlers: message(text or ArrayBuffer), connection(connected, close code).
 */
export class LiveConnection {
  #socket = null;
  #handlers;
  #attempts = 0;
  #timer = 0;
  #closed = false;
  #accepted = false; // set by the server's first message: it may refuse a connection after opening it
  #url;
  #pending;

  constructor(name, pending, handlers) {
    this.#pending = pending;
    this.#url = new URL(`api/sessions/${name}/live`, location.href);
    this.#url.protocol = this.#url.protocol === "https:" ? "wss:" : "ws:";
    this.#url.hash = "";
    this.#handlers = handlers;
    this.connect();
  }

  connect() {
    clearTimeout(this.#timer);
    if (this.#closed || (this.#socket && this.#socket.readyState < WebSocket.CLOSING)) return;
    const socket = transport.connect(this.#url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#onOpen();
    socket.onmessage = ({ data }) => this.#handlers.message(data);
    socket.onclose = ({ code }) => this.#onClose(socket, code);
    this.#socket = socket;
  }

  send(operation) {
    const keyed = this.#pending.add(operation);
    if (this.#accepted && this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(keyed));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  /** Send what the server has not taken. To be called when the server has sent a message, and so accepted the connection. */
  accept() {
    if (this.#accepted) return;
    this.#accepted = true;
    for (const operation of this.#pending.operations) this.#socket.send(JSON.stringify(operation));
  }

  #onOpen() {
    this.#attempts = 0;
    this.#accepted = false;
    this.#handlers.connection(true);
  }

  #onClose(socket, code) {
    if (this.#closed || socket !== this.#socket) return;
    this.#accepted = false;
    this.#handlers.connection(false, code);
    const wait = RETRY_MS[Math.min(this.#attempts++, RETRY_MS.length - 1)];
    this.#timer = setTimeout(() => this.connect(), wait);
  }
}
