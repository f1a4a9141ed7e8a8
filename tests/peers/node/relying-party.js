// A client on oauth4webapi and jose, driven line by line over standard input and output, as client.js is.
//
// Told {issuer, client_id, redirect_uri, scope, resources, identity, orders, algorithm?} and how it authenticates:
// {client_secret, post?}, {private_jwk} or nothing. With {par: true} it pushes its authorization request (RFC 9126). It
// answers {authorize: URL}, is told {arrived: URL}, and goes from the code to revocation; every token is verified with
// jose against the published keys.

import * as oauth from "oauth4webapi";
import * as jose from "jose";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const hear = async () => JSON.parse((await lines.next()).value);
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const http = { [oauth.allowInsecureRequests]: true }; // plain http, on the loopback only

async function authentication(told) {
  if (told.private_jwk) {
    const key = await jose.importJWK(told.private_jwk, told.private_jwk.alg);
    // Algorithms other than those of WebCrypto's own key are no question here: the key says which.
    return oauth.PrivateKeyJwt({ key, kid: told.private_jwk.kid });
  }
  if (!told.client_secret) return oauth.None();
  return told.post ? oauth.ClientSecretPost(told.client_secret) : oauth.ClientSecretBasic(told.client_secret);
}

async function refusal(attempt) {
  try {
    await attempt();
    return "accepted";
  } catch (error) {
    return error.error ?? error.code ?? String(error);
  }
}

async function run() {
  const told = await hear();
  const issuer = new URL(told.issuer);
  const discovered = await oauth.discoveryRequest(issuer, { ...http, algorithm: told.algorithm ?? "oidc" });
  const as = await oauth.processDiscoveryResponse(issuer, discovered);
  const client = { client_id: told.client_id, require_auth_time: true };
  const auth = await authentication(told);
  const keys = jose.createRemoteJWKSet(new URL(as.jwks_uri));

  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const nonce = oauth.generateRandomNonce();
  let parameters = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: told.redirect_uri,
    response_type: "code",
    scope: told.scope,
    state,
    nonce,
    max_age: "3600",
    acr_values: as.acr_values_supported[0],
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  });
  for (const resource of told.resources) parameters.append("resource", resource);
  if (told.par) {
    const pushed = await oauth.pushedAuthorizationRequest(as, client, auth, parameters, http);
    const { request_uri } = await oauth.processPushedAuthorizationResponse(as, client, pushed);
    parameters = new URLSearchParams({ client_id: client.client_id, request_uri });
  }
  const url = new URL(as.authorization_endpoint);
  url.search = parameters;
  say({ authorize: url.href });

  const arrived = new URL((await hear()).arrived);
  const foreign = await refusal(async () =>
    oauth.validateAuthResponse({ ...as, issuer: "https://elsewhere.example" }, client, arrived, state),
  );
  const answer = oauth.validateAuthResponse(as, client, arrived, state); // checks state and iss (RFC 9207)
  const resource = { additionalParameters: { resource: told.identity }, ...http };
  const redeemed = await oauth.authorizationCodeGrantRequest(
    as, client, auth, answer, told.redirect_uri, verifier, resource,
  );
  const first = await oauth.processAuthorizationCodeResponse(as, client, redeemed, {
    expectedNonce: nonce,
    maxAge: 3600,
    requireIdToken: true,
  });
  await oauth.validateApplicationLevelSignature(as, redeemed, http);
  const claims = oauth.getValidatedIdTokenClaims(first);
  const id = await jose.jwtVerify(first.id_token, keys, { issuer: as.issuer, audience: client.client_id });
  const half = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(first.access_token)));
  const at_hash = jose.base64url.encode(half.subarray(0, 16));

  const asked = await oauth.userInfoRequest(as, client, first.access_token, http);
  const userinfo = await oauth.processUserInfoResponse(as, client, claims.sub, asked);

  const narrowed = { additionalParameters: { resource: told.orders, scope: "orders:read" }, ...http };
  const refreshed = await oauth.refreshTokenGrantRequest(as, client, auth, first.refresh_token, narrowed);
  const second = await oauth.processRefreshTokenResponse(as, client, refreshed);
  const request = new Request("http://127.0.0.1/", { headers: { authorization: `Bearer ${second.access_token}` } });
  const access = await oauth.validateJwtAccessToken(as, request, told.orders, http); // RFC 9068
  const elsewhere = await refusal(() => oauth.validateJwtAccessToken(as, request, told.identity, http));
  const verified = await jose.jwtVerify(second.access_token, keys, {
    issuer: as.issuer,
    audience: told.orders,
    algorithms: ["RS256"],
    typ: "at+jwt",
  });

  const introspected = await refusal(async () => {
    const looked = await oauth.introspectionRequest(as, client, auth, second.access_token, http);
    await oauth.processIntrospectionResponse(as, client, looked);
  });
  await oauth.processRevocationResponse(
    await oauth.revocationRequest(as, client, auth, second.refresh_token, http),
  );
  const after = await refusal(async () => {
    const tried = await oauth.refreshTokenGrantRequest(as, client, auth, second.refresh_token, http);
    await oauth.processRefreshTokenResponse(as, client, tried);
  });
  say({
    foreign_issuer: foreign,
    claims,
    at_hash_is_right: claims.at_hash === at_hash,
    verified_id: id.payload,
    verified_header: verified.protectedHeader,
    userinfo,
    access,
    elsewhere,
    introspected,
    refresh_after_revocation: after,
  });
}

try {
  await run();
} catch (error) {
  say({ failed: String(error), cause: String(error.cause ?? ""), error: error.error, description: error.error_description });
}
process.exit(0);
