/** What the machines' reasons mean to a person, and what they can do about it. */

/** @type {Record<string, string>} */
const ENDED = {
  SIGNED_OUT: "You signed out, here or on another device of yours.",
  SIGNED_OUT_EVERYWHERE: "Everything was signed out, here too. If that was not you, change your password.",
  SIGNED_OUT_ELSEWHERE: "This session was ended from another device of yours.",
  SESSION_ENDED: "This session was ended.",
  SESSION_REVOKED: "This session was taken back.",
  SUBJECT_REVOKED: "All your sessions were taken back.",
  GRANT_REVOKED: "This app's access to your account was taken back.",
  CLIENT_REVOKED: "This app's access was taken back for everybody.",
  TOKEN_REVOKED: "The access behind this session was taken back.",
  PASSWORD_CHANGED: "Your password was changed, and every session with the old one ended.",
  ACCOUNT_DISABLED: "This account is disabled. An administrator can enable it again.",
  CLIENT_DISABLED: "This app is disabled.",
  GRANT_ENDED: "Identity has ended the access behind this session.",
  GRANT_WITHDRAWN: "You withdrew this app's access.",
  REFRESH_REUSED: "A refresh token came twice, so it may be stolen: everything that hung on it ended.",
  SESSION_EXPIRED: "The session was over: it has an end, however busy it is.",
  SESSION_IDLE: "The session was idle for too long.",
  SESSION_UNKNOWN: "The server does not know this session any more.",
  NOT_SIGNED_IN: "This browser holds no session any more.",
  CONTROL_ROOM: "An administrator took the session back in the control room.",
};

/**
 * What a person reads when their session has ended.
 * @param {string} reason
 */
export function whyEnded(reason) {
  return ENDED[reason] ?? "The session has ended. Sign in to go on.";
}

/** Reasons with which a call is refused where nobody is signed in anyway: nothing has ended. */
export const NEVER_SIGNED_IN = new Set(["NOT_SIGNED_IN", "SESSION_UNKNOWN"]);

const SILENT = "Identity does not answer right now. Try again in a moment.";
const NOT_OURS = "What came back from identity does not fit the sign-in that was begun in this browser. Begin it again.";
const UNFINISHED = "The sign-in was not completed in this browser. Begin it again from here.";

/** @type {Record<string, string>} */
const NOT_COMPLETED = {
  access_denied: "You chose not to allow it. Nothing has changed.",
  temporarily_unavailable: SILENT,
  login_required: UNFINISHED,
  consent_required: UNFINISHED,
  invalid_scope: UNFINISHED,
  sign_in_failed: UNFINISHED,
  IDENTITY_UNAVAILABLE: SILENT,
  IDENTITY_REFUSED: "Identity does not accept this app. Whoever runs it finds the reason in its settings.",
  SESSIONS_UNAVAILABLE: "Sessions cannot be kept right now. Try again in a moment.",
  TOO_MANY_ATTEMPTS: "Too many sign-ins came from your network. Wait a minute, then try again.",
  SIGN_IN_NOT_BEGUN: "This sign-in was not begun in this browser, or too long ago. Begin it again.",
  STATE_MISMATCH: NOT_OURS,
  ISSUER_MISMATCH: NOT_OURS,
  CODE_REFUSED: NOT_OURS,
  ID_TOKEN_REFUSED: NOT_OURS,
};

/**
 * What a person reads who comes back without being signed in. Anybody can write an address, so nothing of it is shown
 * that is not known here.
 * @param {string} said in the address, by the session service
 * @returns {{reason: string, text: string}}
 */
export function whyNotSignedIn(said) {
  const reason = Object.hasOwn(NOT_COMPLETED, said) ? said : "sign_in_failed";
  return { reason, text: NOT_COMPLETED[reason] ?? UNFINISHED };
}

/** @type {Record<string, string>} */
const ADVICE = {
  NO_ANSWER: "Check that the system runs (make run), then try again.",
  RATE_LIMITED: "That was too often. Wait a moment, then try again.",
  TOO_MANY_STREAMS: "This session has many pages open. Close one of them.",
  OUT_OF_STOCK: "Somebody was quicker. Take fewer, or something else.",
  ETAG_MISMATCH: "It changed in the meantime. Look at it as it is now, then decide again.",
  VERIFIER_STALE: "A service has lost touch with revocations and refuses to guess. It asks again every second.",
};

/**
 * A failure as two sentences: what happened, and what to do.
 * @param {unknown} error
 * @returns {{title: string, advice: string, reason: string}}
 */
export function explained(error) {
  const problem = /** @type {{detail?: string, reason?: string, status?: number, retryAfter?: number}} */ (error);
  const reason = problem.reason ?? "BROKEN_PAGE";
  const title = problem.detail ?? "This page has a fault. Reload it.";
  const wait = problem.retryAfter ? `Try again in ${problem.retryAfter} s.` : "";
  const unavailable =
    (problem.status ?? 0) >= 500 ? "Try again; if that does not help, see which service is down." : "";
  return { title, advice: ADVICE[reason] ?? (wait || unavailable), reason };
}
