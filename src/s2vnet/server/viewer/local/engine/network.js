// The exported graphs of a network (s2vnet/model/onnx_export.py) in ONNX Runtime.

const STATE = ["centres", "known", "missed", "masks", "direction"]; // carried from slice to slice

/** Encoder and decoder of one model. Slices and states are plain arrays for a batch of one. */
export class Network {
  #ort;
  #encode;
  #decode;
  #config;

  /** `ort` is the ONNX Runtime module; `encode` and `decode` are the bytes of the graphs; `config` of model.json. */
  static async load(ort, encode, decode, config) {
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const network = new Network();
    network.#ort = ort;
    network.#config = config;
    network.#encode = await ort.InferenceSession.create(encode, options);
    network.#decode = await ort.InferenceSession.create(decode, options);
    return network;
  }

  /** Number of classes, with background. */
  get classes() {
    return this.#config.num_classes;
  }

  /** Whether a slice's masks enter the next one. */
  get propagates() {
    return this.#config.propagation !== "none";
  }

  /** Features of a slice (C, H, W): a list of `{dims, data}` in the order of the decoder's inputs. */
  async encode(slice, [height, width]) {
    const tensor = new this.#ort.Tensor("float32", slice, [1, slice.length / (height * width), height, width]);
    const outputs = await this.#encode.run({ slices: tensor });
    return this.#encode.outputNames.map((name) => ({ dims: outputs[name].dims, data: outputs[name].data }));
  }

  /** State that enters the first slice; `direction` is 1 for rising order, -1 for falling, 0 for neither. */
  initialState(direction) {
    const { num_classes: classes, dim } = this.#config;
    return {
      centres: new Float32Array(classes * dim),
      known: new Float32Array(classes),
      missed: new Float32Array(classes),
      masks: null, // zeros of the features' size
      direction: new Float32Array([direction]),
    };
  }

  /** Decode a slice: `{logits, presence, state, size}`, `size` being the cells (h, w). */
  async decode(features, state) {
    const { num_classes: classes, dim } = this.#config;
    const size = features[0].dims.slice(1, 3);
    const dims = { centres: [1, classes, dim], masks: [1, classes, ...size], direction: [1] };
    const masks = state.masks ?? new Float32Array(classes * size[0] * size[1]);
    const inputs = features.map(({ data, dims: shape }, n) => [this.#encode.outputNames[n], data, shape]);
    for (const part of STATE) inputs.push([`entering_${part}`, part === "masks" ? masks : state[part], dims[part] ?? [1, classes]]);
    const feeds = {};
    for (const [name, data, shape] of inputs) {
      // inputs that a graph does not use are removed when it is exported
      if (this.#decode.inputNames.includes(name)) feeds[name] = new this.#ort.Tensor("float32", data, shape);
    }
    const outputs = await this.#decode.run(feeds);
    const leaving = Object.fromEntries(STATE.map((part) => [part, outputs[`leaving_${part}`].data]));
    return { logits: outputs.logits.data, presence: outputs.presence.data, state: leaving, size };
  }
}
