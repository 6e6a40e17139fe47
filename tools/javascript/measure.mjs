// What Node and the page share: models are opened, run and timed as the host commands, one command at a time. The order
// of the models, the rounds and the store are the host's, the same code as for Python; here only calls are timed.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array,
  int8: Int8Array, bool: Uint8Array,
};

/** Return the smallest step of performance.now() that was seen, in nanoseconds. */
export function timerResolution() {
  let least = Infinity;
  for (let steps = 0; steps < 50; steps++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    least = Math.min(least, now - start);
  }
  return Math.max(1, Math.round(least * 1e6));
}

/** Return base64 of the bytes of a typed array, in pieces that fit the stack. */
export function base64(data) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

/**
 * Return a function that answers a command. `place` is what differs between Node and a page: provider, read(file) ->
 * ArrayBuffer, model(file, external) -> [what create() takes, more options], cpuNs() -> nanoseconds or null, facts().
 */
export function commands(ort, place) {
  const sessions = [];
  const tensors = new Map(); // file -> tensor: inputs stay where they are between blocks, as they do in Python

  async function feedsOf(inputs) {
    const feeds = {};
    for (const { name, type, dims, file } of inputs) {
      if (!tensors.has(file)) tensors.set(file, new ort.Tensor(type, new ARRAYS[type](await place.read(file)), dims));
      feeds[name] = tensors.get(file);
    }
    return feeds;
  }

  const known = {
    async hello() {
      return { timer_resolution_ns: timerResolution(), ...(await place.facts()) };
    },

    async open({ file, external, threads, spinning }) {
      const begin = performance.now();
      const [source, more] = await place.model(file, external);
      const session = await ort.InferenceSession.create(source, {
        executionProviders: [place.provider],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
        extra: { session: { intra_op: { allow_spinning: spinning ? "1" : "0" } } },
        ...more,
      });
      sessions.push(session);
      const names = { inputs: session.inputNames, outputs: session.outputNames };
      return { session: sessions.length - 1, ms: performance.now() - begin, ...names };
    },

    async run({ session, inputs }) {
      const found = await sessions[session].run(await feedsOf(inputs));
      const outputs = {};
      for (const [name, t] of Object.entries(found)) {
        outputs[name] = { type: t.type, dims: t.dims, data: base64(t.data) };
      }
      return { outputs, page_ms: performance.now() };
    },

    async block({ session, inputs, runs, seconds }) {
      const model = sessions[session];
      const feeds = await feedsOf(inputs);
      const ns = [];
      const cpu = place.cpuNs();
      const begin = performance.now();
      const enough = begin + seconds * 1e3;
      let end = begin;
      while (ns.length < runs || end < enough) {
        const start = performance.now();
        await model.run(feeds);
        end = performance.now();
        ns.push(Math.round((end - start) * 1e6));
      }
      const wall_ns = Math.round((performance.now() - begin) * 1e6);
      return { ns, wall_ns, cpu_ns: cpu === null ? null : place.cpuNs() - cpu };
    },
  };

  return async ({ id, what, ...facts }) => {
    try {
      return { id, ...(await known[what](facts)) };
    } catch (error) {
      return { id, error: String(error?.message ?? error) };
    }
  };
}
