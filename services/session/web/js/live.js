/**
 * The live stream of notifications, as long as the session lives.
 *
 * The browser reconnects by itself and names the last notification it saw (Last-Event-ID), so none is lost on the way.
 * What it does not do by itself is done here: it gives up when it is refused, and it does not see a connection that has
 * gone silent.
 */

const SILENCE = 45_000; // milliseconds; keepalives come every few seconds
const FIRST_WAIT = 1000; // milliseconds, doubled up to
const LONGEST_WAIT = 30_000;

/** @typedef {"connecting" | "open" | "waiting" | "ended"} LiveState */

/** Tells of `notification`, `resumed` (connected again, after a break), `state` and `ended`. */
export class Live extends EventTarget {
  /** @type {EventSource | null} */
  #source = null;
  /** @type {LiveState} */
  state = "connecting";
  #wait = FIRST_WAIT;
  /** @type {number | undefined} */
  #timer;
  /** @type {number | undefined} */
  #watchdog;
  #opened = false;
  /** @type {() => Promise<unknown>} */
  #check;

  /** @param {() => Promise<unknown>} check asks whether the session still lives; it deals with the answer itself */
  constructor(check) {
    super();
    this.#check = check;
    // A page that nobody looks at holds no stream: a browser has six connections to a server, for all tabs together.
    document.addEventListener("visibilitychange", () => {
      if (this.state === "ended") return;
      if (document.hidden) {
        this.#close();
        this.#turn("waiting");
      } else if (!this.#source) {
        this.#check().catch(() => {});
        this.start();
      }
    });
  }

  /** Connects, and stays connected until `stop`. */
  start() {
    this.#close();
    this.#turn("connecting");
    const source = new EventSource("/api/live");
    this.#source = source;
    source.addEventListener("open", () => {
      this.#wait = FIRST_WAIT;
      this.#turn("open");
      this.#heard();
      if (this.#opened) this.dispatchEvent(new Event("resumed"));
      this.#opened = true;
    });
    source.addEventListener("keepalive", () => this.#heard());
    source.addEventListener("notification", (event) => {
      this.#heard();
      this.dispatchEvent(new CustomEvent("notification", { detail: JSON.parse(event.data) }));
    });
    source.addEventListener("end", (event) => {
      const { reason, reconnect } = JSON.parse(event.data);
      if (reconnect) return; // The server closes now, and the browser comes back with its Last-Event-ID.
      this.stop();
      this.dispatchEvent(new CustomEvent("ended", { detail: reason }));
    });
    source.addEventListener("error", () => this.#broken(source));
  }

  /** Disconnects for good. */
  stop() {
    this.#close();
    this.#turn("ended");
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    this.#source?.close();
    this.#source = null;
  }

  /** @param {EventSource} source */
  #broken(source) {
    if (source !== this.#source) return;
    this.#turn("waiting");
    if (source.readyState !== EventSource.CLOSED) return; // It tries again by itself.
    this.#again();
  }

  #again() {
    this.#close();
    this.#turn("waiting");
    this.#check().catch(() => {}); // No session any more? Then the answer says why, and ends this stream.
    const jitter = 0.5 + Math.random(); // A thousand pages do not come back in the same second.
    this.#timer = setTimeout(() => this.start(), this.#wait * jitter);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
  }

  #heard() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#again(), SILENCE);
  }

  /** @param {LiveState} state */
  #turn(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
