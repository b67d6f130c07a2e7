// One session as the page knows it: the state last told, and labels in file voxel order i, j, k (k fastest).

import { Live, split } from "./api.js";
import { inflate } from "./voxels.js";

const TRY_AGAIN_LATER = 1013; // why a connection ended: no room for now
const STATUSES = ["opening", "working", "ready", "failed"]; // in the order in which they come for one revision

/**
 * Events: `state`; `block` (detail: start, shape) when labels changed; `settled` (detail: changed slices, first) when
 * the labels have everything in them that was asked for; `problem` and `gone` (detail: text); `link` (detail: boolean).
 */
export class Session extends EventTarget {
  state = null;
  labels = null;
  /** Voxels of each class. */
  counts = new Float64Array(256);
  connected = false;
  #live;
  #inTurn = Promise.resolve();
  #whole = false; // all labels of this connection are here
  #newest = null; // state of this connection
  #fresh = true; // nothing has come by this connection
  #problem = null;
  #full = null; // why there is no room
  #changed = [new Set(), new Set(), new Set()];
  #told = null;
  #settledOnce = false;

  constructor(name) {
    super();
    this.name = name;
    this.#live = new Live(name, {
      message: (data) => this.#queue(data),
      link: (connected, code) => this.#linked(connected, code),
    });
  }

  /** Ask for an operation; sent at once, or as soon as there is a connection. */
  ask(operation) {
    this.#live.send(operation);
  }

  /** Try to connect now instead of later. */
  reconnect() {
    this.#live.connect();
  }

  close() {
    this.#live.close();
  }

  get waiting() {
    return this.#live.waiting;
  }

  /** Whether the labels have everything in them that was asked for. */
  get settled() {
    const { state } = this;
    return Boolean(this.connected && this.#whole && state?.status === "ready" && state.shown === state.revision);
  }

  /** Slices across the network's axis that have changed since it last settled. */
  get changedSlices() {
    return this.#changed[this.state?.plane ?? 2].size;
  }

  labelAt(i, j, k) {
    const [, nj, nk] = this.state.shape;
    return this.labels[(i * nj + j) * nk + k];
  }

  #linked(connected, code) {
    this.connected = connected;
    if (connected) this.#began();
    else if (this.#fresh && this.#problem) {
      if (code !== TRY_AGAIN_LATER) return this.#gone(this.#problem);
      this.#later(this.#problem);
    }
    this.#tell("link", connected);
  }

  /** A new connection: what it tells replaces what was known, once what came before has been taken. */
  #began() {
    [this.#fresh, this.#problem] = [true, null];
    this.#inTurn = this.#inTurn.then(() => ([this.#whole, this.#newest] = [false, null]));
  }

  /** Refused for now: said once, for the connection tries again by itself. */
  #later(detail) {
    if (this.#full !== detail) this.#tell("problem", detail);
    this.#full = detail;
  }

  /** Refused for good: the server said why before it said anything else. */
  #gone(detail) {
    this.close();
    this.#tell("gone", detail);
  }

  /** Messages one after the other: unpacking takes time, and the state after a block is true only with the block. */
  #queue(data) {
    if (typeof data === "string" && this.#fresh && JSON.parse(data).type === "problem") {
      this.#problem = JSON.parse(data).detail;
      return;
    }
    this.#live.taken();
    this.#inTurn = this.#inTurn.then(() => this.#take(data)).catch((error) => this.#tell("problem", String(error)));
    [this.#fresh, this.#full] = [false, null];
  }

  async #take(data) {
    if (typeof data !== "string") return this.#block(data);
    const message = JSON.parse(data);
    if (message.type === "problem") return this.#tell("problem", message.detail);
    this.#state(message);
  }

  /** Several threads of a server tell of states, so an older one may come later: it is passed over. */
  #outdated(state) {
    const [newest, now] = [this.#newest, state].map((one) => one && orderOf(one));
    const differs = newest ? now.findIndex((value, n) => value !== newest[n]) : -1;
    return differs >= 0 && now[differs] < newest[differs];
  }

  #state(state) {
    if (this.#outdated(state)) return;
    this.state = this.#newest = state;
    if (!state.shape) {
      // the server has no labels yet, so whatever it tells from here on is all that there is
      [this.labels, this.#whole] = [null, true];
    } else if (!this.labels) {
      this.labels = new Uint8Array(state.shape.reduce((a, b) => a * b));
      this.counts.fill(0);
      this.counts[0] = this.labels.length;
      this.#tell("block", { start: [0, 0, 0], shape: state.shape });
    }
    this.#tell("state", state);
    this.#settle();
  }

  async #block(data) {
    const { head, packed } = split(data);
    const labels = await inflate(packed);
    this.#write(labels, head.start, head.shape);
    this.#whole ||= head.shape.every((length, n) => length === this.state.shape[n]);
    this.#tell("block", { start: head.start, shape: head.shape });
    this.#settle();
  }

  /** Take over a block, and count what changed. */
  #write(block, start, shape) {
    const [, nj, nk] = this.state.shape;
    const { labels, counts } = this;
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

  #settle() {
    if (!this.settled || this.#told === this.state.revision) return;
    const first = !this.#settledOnce;
    const changed = this.changedSlices;
    [this.#told, this.#settledOnce] = [this.state.revision, true];
    this.#changed.forEach((slices) => slices.clear());
    this.#tell("settled", { changed, first });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Numbers that grow with a session's states, the weightiest first. */
function orderOf({ revision, shape, shown, status }) {
  return [revision, Number(shape !== null), shown, STATUSES.indexOf(status)];
}
