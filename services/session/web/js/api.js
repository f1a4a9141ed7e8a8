/** The session service's API: JSON there and back, refusals as typed errors. No token is in it: the cookie does it all. */

const SECOND_TRY = 400; // milliseconds
const DEADLINE = 15_000; // milliseconds; a page that hangs tells nobody what to do

/** What went wrong, as RFC 9457 problem details say it. `status` is 0 where nobody answered. */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {string} reason UPPER_SNAKE
   * @param {string} detail one sentence for people
   * @param {{fields?: Record<string, string>, retryAfter?: number}} [more]
   */
  constructor(status, reason, detail, { fields = {}, retryAfter } = {}) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.reason = reason;
    this.detail = detail;
    this.fields = fields;
    this.retryAfter = retryAfter;
  }
}

/** Calls under one session. */
export class Api {
  /**
   * @param {(problem: Problem) => void} ended is told when a call finds that there is no session any more
   */
  constructor(ended) {
    this.#ended = ended;
  }

  /** @type {(problem: Problem) => void} */
  #ended;

  /**
   * @param {string} path
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async get(path, signal) {
    try {
      return await this.#call("GET", path, { signal });
    } catch (error) {
      // Reading again is safe, and a connection that broke, as when a computer changes its network, deserves it once.
      if (!(error instanceof Problem) || error.status !== 0) throw error;
      await new Promise((go) => setTimeout(go, SECOND_TRY));
      return this.#call("GET", path, { signal });
    }
  }

  /**
   * @param {string} path
   * @param {unknown} [body]
   * @param {Record<string, string>} [headers]
   * @returns {Promise<any>}
   */
  post(path, body, headers = {}) {
    return this.#call("POST", path, { body, headers });
  }

  /**
   * @param {string} path
   * @param {unknown} body
   * @returns {Promise<any>}
   */
  put(path, body) {
    return this.#call("PUT", path, { body });
  }

  /**
   * @param {string} path
   * @returns {Promise<any>}
   */
  delete(path) {
    return this.#call("DELETE", path, {});
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{body?: unknown, headers?: Record<string, string>, signal?: AbortSignal}} how
   * @returns {Promise<any>}
   */
  async #call(method, path, { body, headers = {}, signal }) {
    const sent = { ...headers, accept: "application/json" };
    // A form of another site cannot set a header, so this one says that the page itself asked (CSRF).
    if (method !== "GET") Object.assign(sent, { "X-Rescind-Request": "1" });
    if (body !== undefined) Object.assign(sent, { "content-type": "application/json" });
    const limit = AbortSignal.timeout(DEADLINE);
    let response;
    try {
      response = await fetch(path, {
        method,
        headers: sent,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
        credentials: "same-origin",
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, "NO_ANSWER", "The server does not answer. Check that it runs, then try again.");
    }
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = await understood(response);
    if (problem.status === 401) this.#ended(problem);
    throw problem;
  }
}

/**
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
async function understood(response) {
  /** @type {any} */
  let said = {};
  try {
    said = await response.json();
  } catch {
    // Whoever answered was not the service: a proxy on the way, perhaps.
  }
  const retryAfter = Number(response.headers.get("retry-after")) || undefined;
  const detail = said.detail || `The server answered with status ${response.status}.`;
  return new Problem(response.status, said.reason || `HTTP_${response.status}`, detail, {
    fields: said.fields,
    retryAfter,
  });
}
