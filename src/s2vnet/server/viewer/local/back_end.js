// The back end of the page without a server: answers the viewer's requests (s2vnet/server/api.py) in this tab.

import { TabSession, TabSocket, NO_PROMPTS } from "./tab_session.js";

const MAX_UPLOAD_MB = 4096;
const MAX_VOXELS = 2 ** 31;
const CONFLICT = 409;
const NOT_FOUND = 404;

/** Scans and sessions of this tab. */
export class BackEnd {
  #content;
  #scans = new Map();
  #sessions = new Map();

  /** `content` of models.json. */
  constructor(content) {
    this.#content = content;
  }

  /** Answer a request as the server does; other addresses are fetched. */
  async fetch(url, options = {}) {
    const { pathname, search } = new URL(url, location.href);
    const path = pathname.match(/\/api\/(.*)$/)?.[1];
    if (path === undefined) return fetch(url, options);
    try {
      const answer = await this.#answer(options.method ?? "GET", path.split("/"), options.body, new URLSearchParams(search));
      return answer instanceof Blob ? new Response(answer, { headers: { "content-length": answer.size } }) : Response.json(answer);
    } catch (error) {
      return Response.json({ type: "problem", detail: error.message }, { status: error instanceof Missing ? NOT_FOUND : CONFLICT });
    }
  }

  /** A connection to the session that an address names. */
  connect(url) {
    return new TabSocket(this.#sessions.get(new URL(url, location.href).pathname.split("/").at(-2)));
  }

  async #answer(method, [kind, name, what], body, parameters) {
    if (kind === "info") return this.#info();
    if (kind === "scans") return method === "POST" ? this.#add(body.get("file")) : [...this.#scans.values()].map(describe);
    if (kind === "sessions" && name === undefined) return method === "POST" ? this.#open(JSON.parse(body)) : [];
    const session = this.#sessions.get(name);
    if (kind !== "sessions" || !session) throw new Missing("this scan is no longer open; open its file again");
    if (what === "image") return session.scan.file;
    if (what === "labels") return session.labels(parameters.get("format"));
    if (what === "log") return session.log();
    if (what === "suggestions") throw new Error("the page without a server does not list doubtful places; use `s2vnet view`");
    throw new Error(NO_PROMPTS);
  }

  #info() {
    const { version, models } = this.#content;
    const limits = { max_upload_mb: MAX_UPLOAD_MB, max_voxels: MAX_VOXELS, token_needed: false, automatic_only: true };
    const shown = models.map(({ name, sha256, channels, modality, classes }) => ({ name, sha256, channels, modality, classes }));
    return { name: "s2vnet", version, models: shown, ...limits };
  }

  #add(file) {
    const scan = { id: crypto.randomUUID(), name: file.name, file };
    this.#scans.set(scan.id, scan);
    return describe(scan);
  }

  /** Open a session with a model by its name, or with the first one that fits the scan. */
  #open({ image, model = null }) {
    const scan = this.#scans.get(image);
    if (!scan) throw new Missing("this scan is no longer open; open its file again");
    const models = this.#content.models.filter((one) => model === null || one.name === model);
    if (models.length === 0) throw new Missing(`there is no model ${model}`);
    const name = crypto.randomUUID();
    this.#sessions.set(name, new TabSession(name, scan, models));
    return { session: name };
  }
}

class Missing extends Error {}

function describe({ id, name }) {
  return { id, name };
}
