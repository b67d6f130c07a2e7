// Client side of a session: its last state, and labels in file voxel order i, j, k (k fastest).

import { LiveConnection, splitMessage } from "../network/live_connection.js";
import { inflate } from "../network/mask_codec.js";
import { PendingOperations } from "../network/pending_operations.js";
import { findChanges } from "./changes.js";

const TRY_AGAIN_LATER = 1013; // WebSocket close code: the server is out of capacity for now
const STATUSES = ["opening", "working", "ready", "failed"]; // in their order within one revision

/**
 * A session. Events: `state`; `block` (detail: start, shape) when labels changed; `settled` (detail: changed slices, changes, first)
 * when the labels include every operation that was sent; `problem` and `closed` (detail: text); `connection` (detail: boolean).
 */
export class Session extends EventTarget {
  state = null;
  labels = null;
  /** Voxels of each class. */
  counts = new Float64Array(256);
  connected = false;
  #live;
  #pending;
  #processing = Promise.resolve();
  #complete = false; // all labels have been received on this connection
  #newest = null; // newest state received on this connection
  #firstMessage = true; // no message has been received on this connection
  #problem = null;
  #refusal = null; // last reason for a temporary refusal
  #changed = [new Set(), new Set(), new Set()];
  #settledLabels = null; // as they were when the labels last settled
  #box = null; // of all blocks since then
  #settledRevision = null;
  #settledOnce = false;

  constructor(name) {
    super();
    this.name = name;
    this.#pending = new PendingOperations(name);
    this.#live = new LiveConnection(name, this.#pending, {
      message: (data) => this.#enqueue(data),
      connection: (connected, code) => this.#onConnection(connected, code),
    });
  }

  /** Send an operation, immediately or as soon as there is a connection. */
  send(operation) {
    this.#live.send(operation);
  }

  /** Try to connect now instead of later. */
  reconnect() {
    this.#live.connect();
  }

  close() {
    this.#live.close();
  }

  /** Operations that the server has not taken yet. */
  get waiting() {
    return this.#pending.operations;
  }

  /** Give up an operation that waits. */
  giveUp(key) {
    this.#pending.remove([key]);
  }

  /** Whether the labels include every operation that was sent. */
  get settled() {
    const { state } = this;
    return Boolean(this.connected && this.#pending.length === 0 && this.#complete && state?.status === "ready" && state.shown === state.revision);
  }

  /** Number of slices, across the network's axis, that have changed since the labels last settled. */
  get changedSlices() {
    return this.#changed[this.state?.plane ?? 2].size;
  }

  labelAt(i, j, k) {
    const [, nj, nk] = this.state.shape;
    return this.labels[(i * nj + j) * nk + k];
  }

  #onConnection(connected, code) {
    this.connected = connected;
    if (connected) this.#onReconnect();
    else if (this.#firstMessage && this.#problem) {
      if (code !== TRY_AGAIN_LATER) return this.#onRefused(this.#problem);
      this.#onBusy(this.#problem);
    }
    this.#emit("connection", connected);
  }

  /** On a new connection, discard the received state after all earlier messages have been handled. */
  #onReconnect() {
    [this.#firstMessage, this.#problem] = [true, null];
    this.#processing = this.#processing.then(() => ([this.#complete, this.#newest] = [false, null]));
  }

  /** Report a temporary refusal once; the connection is retried automatically. */
  #onBusy(detail) {
    if (this.#refusal !== detail) this.#emit("problem", detail);
    this.#refusal = detail;
  }

  /** Close a connection that the server has refused permanently. */
  #onRefused(detail) {
    this.close();
    this.#emit("closed", detail);
  }

  /** Handle messages in order: blocks are decompressed asynchronously, and a state holds only with the blocks before it. */
  #enqueue(data) {
    const message = typeof data === "string" ? JSON.parse(data) : null;
    if (message?.type === "problem" && this.#firstMessage) {
      this.#problem = message.detail;
      return;
    }
    if (message) this.#pending.remove(message.taken ?? [message.key]);
    this.#live.accept();
    this.#processing = this.#processing.then(() => this.#handle(data)).catch((error) => this.#emit("problem", String(error)));
    [this.#firstMessage, this.#refusal] = [false, null];
  }

  async #handle(data) {
    if (typeof data !== "string") return this.#handleBlock(data);
    const message = JSON.parse(data);
    if (message.type === "problem") return this.#emit("problem", message.detail);
    this.#handleState(message);
  }

  /** Whether a state is older than one already received: threads of the server may send them out of order. */
  #outdated(state) {
    const [newest, current] = [this.#newest, state].map((one) => one && orderOf(one));
    const differs = newest ? current.findIndex((value, n) => value !== newest[n]) : -1;
    return differs >= 0 && current[differs] < newest[differs];
  }

  #handleState(state) {
    if (this.#outdated(state)) return;
    this.state = this.#newest = state;
    if (!state.shape) {
      // the server has no labels yet, so all of them will be sent
      [this.labels, this.#complete] = [null, true];
    } else if (!this.labels) {
      this.labels = new Uint8Array(state.shape.reduce((a, b) => a * b));
      this.counts.fill(0);
      this.counts[0] = this.labels.length;
      this.#emit("block", { start: [0, 0, 0], shape: state.shape });
    }
    this.#emit("state", state);
    this.#checkSettled();
  }

  async #handleBlock(data) {
    const { head, packed } = splitMessage(data);
    const labels = await inflate(packed);
    this.#writeBlock(labels, head.start, head.shape);
    this.#complete ||= head.shape.every((length, n) => length === this.state.shape[n]);
    this.#emit("block", { start: head.start, shape: head.shape });
    this.#checkSettled();
  }

  /** Write a block into the labels, and count the slices that change. */
  #writeBlock(block, start, shape) {
    const [, nj, nk] = this.state.shape;
    const { labels, counts } = this;
    const stop = start.map((from, n) => from + shape[n]);
    this.#box ??= { start, stop };
    this.#box = {
      start: this.#box.start.map((from, n) => Math.min(from, start[n])),
      stop: this.#box.stop.map((end, n) => Math.max(end, stop[n])),
    };
    let at = 0;
    for (let i = start[0]; i < start[0] + shape[0]; i++) {
      for (let j = start[1]; j < start[1] + shape[1]; j++) {
        let to = (i * nj + j) * nk + start[2];
        for (let k = start[2]; k < start[2] + shape[2]; k++, to++, at++) {
          if (labels[to] === block[at]) continue;
          counts[labels[to]]--;
          counts[block[at]]++;
          labels[to] = block[at];
          this.#changed[0].add(i);
          this.#changed[1].add(j);
          this.#changed[2].add(k);
        }
      }
    }
  }

  #checkSettled() {
    if (!this.settled || this.#settledRevision === this.state.revision) return;
    const first = !this.#settledOnce;
    const changed = this.changedSlices;
    [this.#settledRevision, this.#settledOnce] = [this.state.revision, true];
    for (const slices of this.#changed.values()) slices.clear();
    this.#emit("settled", { changed, changes: this.#settle(), first });
  }

  /** Changes since the labels last settled; null if there are none. */
  #settle() {
    const { labels, state } = this;
    const [before, box] = [this.#settledLabels, this.#box];
    this.#box = null;
    if (before?.length !== labels.length) this.#settledLabels = labels.slice();
    if (before?.length !== labels.length || !box) return null;
    const changes = findChanges(before, labels, state.shape, box);
    if (changes) before.set(labels);
    return changes;
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Sort key of a session's states, most significant number first. */
function orderOf({ revision, shape, shown, status }) {
  return [revision, Number(shape !== null), shown, STATUSES.indexOf(status)];
}
