// Operations of this tab that the server has not taken yet; they survive a reload of the page.

const PREFIX = "s2vnet-pending-";

/** Operations that wait, oldest first, each with a key by which the server recognises it when it is sent again. */
export class PendingOperations {
  #storage;
  #items;
  #count = 0;
  #tab = [...crypto.getRandomValues(new Uint32Array(2))].map((part) => part.toString(36)).join("");

  constructor(session) {
    this.#storage = PREFIX + session;
    try {
      this.#items = JSON.parse(sessionStorage.getItem(this.#storage)) ?? [];
    } catch {
      this.#items = [];
    }
  }

  get operations() {
    return [...this.#items];
  }

  get length() {
    return this.#items.length;
  }

  /** Add an operation; returns it with its key. */
  add(operation) {
    const keyed = { ...operation, key: `${this.#tab}-${this.#count++}` };
    this.#items.push(keyed);
    this.#save();
    return keyed;
  }

  /** Remove the operations of these keys, which the server has taken or refused. */
  remove(keys) {
    const waiting = this.#items.filter(({ key }) => !keys.includes(key));
    if (waiting.length === this.#items.length) return;
    this.#items = waiting;
    this.#save();
  }

  #save() {
    try {
      if (this.#items.length) sessionStorage.setItem(this.#storage, JSON.stringify(this.#items));
      else sessionStorage.removeItem(this.#storage);
    } catch {
      // no space left: the operations are kept until the page is closed
    }
  }
}
