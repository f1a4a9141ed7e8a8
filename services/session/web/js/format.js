/** Numbers, times and ids for people: always with their unit, in the language of their browser. */

const language = navigator.language || "en";
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** @typedef {{minor_units: number | string, currency: string}} Money */

/**
 * 1995 EUR as "€19.95". The currency says how many digits its smallest unit has: none for JPY, three for KWD.
 * @param {Money | null | undefined} amount
 */
export function money(amount) {
  if (!amount) return "";
  const shape = new Intl.NumberFormat(language, { style: "currency", currency: amount.currency });
  const digits = shape.resolvedOptions().maximumFractionDigits ?? 2;
  return shape.format(Number(amount.minor_units) / 10 ** digits);
}

/**
 * "3 minutes ago", "in 2 days".
 * @param {string | number | Date} moment
 * @param {number} now milliseconds
 */
export function ago(moment, now = Date.now()) {
  const away = new Date(moment).getTime() - now;
  const size = Math.abs(away);
  if (size < 10 * SECOND) return away > 0 ? "in a few seconds" : "just now";
  if (size < MINUTE) return relative.format(Math.round(away / SECOND), "second");
  if (size < HOUR) return relative.format(Math.round(away / MINUTE), "minute");
  if (size < DAY) return relative.format(Math.round(away / HOUR), "hour");
  return relative.format(Math.round(away / DAY), "day");
}

/**
 * "14 min 03 s": how long until `moment`; "over" once it has passed.
 * @param {string | number | Date} moment
 * @param {number} now milliseconds
 */
export function left(moment, now = Date.now()) {
  const away = new Date(moment).getTime() - now;
  if (!(away > 0)) return "over";
  const two = (/** @type {number} */ number) => String(Math.floor(number)).padStart(2, "0");
  if (away < MINUTE) return `${Math.floor(away / SECOND)} s`;
  if (away < HOUR) return `${Math.floor(away / MINUTE)} min ${two((away % MINUTE) / SECOND)} s`;
  if (away < DAY) return `${Math.floor(away / HOUR)} h ${two((away % HOUR) / MINUTE)} min`;
  const days = Math.floor(away / DAY);
  return `${days} ${days === 1 ? "day" : "days"} ${Math.floor((away % DAY) / HOUR)} h`;
}

/** @param {string | number | Date} moment */
export const atTime = (moment) => clock.format(new Date(moment));

/** @param {string | number | Date} moment */
export const onDay = (moment) => day.format(new Date(moment));

/** @param {string | number | Date} moment */
export const inFull = (moment) => whole.format(new Date(moment));

/**
 * "2.4 ms", "310 ms", "2.1 s". Delays are taken from two clocks, so one may come out a little below nothing: 0 ms.
 * @param {number} ms
 */
export function milliseconds(ms) {
  if (ms >= SECOND) return `${(ms / SECOND).toFixed(1)} s`;
  if (ms >= 100) return `${Math.round(ms)} ms`;
  return `${Math.max(0, ms).toFixed(1)} ms`;
}

/**
 * An id that fits a line: "ord_01JD…9XQ2". The whole of it belongs into a title.
 * @param {string} id
 * @param {number} most characters
 */
export function short(id, most = 14) {
  return id.length <= most + 1 ? id : `${id.slice(0, most - 4)}…${id.slice(-4)}`;
}

/**
 * "1 order", "3 orders".
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export function count(number, one, many = `${one}s`) {
  return `${new Intl.NumberFormat(language).format(number)} ${number === 1 ? one : many}`;
}
