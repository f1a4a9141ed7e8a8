// A client on the certified library openid-client, driven line by line over standard input and output.
//
// It is told {issuer, client_id, client_secret?, redirect_uri, scope, resource?}, answers {authorize: URL}, is told
// {arrived: URL} once a browser has been there, and then goes through what a relying party does, every check of the
// library's switched on. Whatever goes wrong is answered as {failed: ...}.

import * as oidc from "openid-client";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const hear = async () => JSON.parse((await lines.next()).value);
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");

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
  const how = told.client_secret
    ? told.post
      ? oidc.ClientSecretPost(told.client_secret)
      : oidc.ClientSecretBasic(told.client_secret)
    : oidc.None();
  const config = await oidc.discovery(new URL(told.issuer), told.client_id, undefined, how, {
    execute: [oidc.allowInsecureRequests], // plain http, on the loopback only
    algorithm: told.algorithm ?? "oidc",
  });
  // Verifies ID token signatures with the published keys; by default TLS would be enough for the library.
  oidc.enableNonRepudiationChecks(config);

  const verifier = oidc.randomPKCECodeVerifier();
  const state = oidc.randomState();
  const nonce = oidc.randomNonce();
  const parameters = {
    redirect_uri: told.redirect_uri,
    scope: told.scope,
    state,
    nonce,
    max_age: "3600",
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  };
  const url = oidc.buildAuthorizationUrl(config, parameters);
  for (const resource of told.resources ?? []) url.searchParams.append("resource", resource);
  say({ authorize: url.href });

  const arrived = new URL((await hear()).arrived);
  const checks = { expectedState: state, expectedNonce: nonce, pkceCodeVerifier: verifier, maxAge: 3600 };
  const wrong = await refusal(() =>
    oidc.authorizationCodeGrant(config, arrived, { ...checks, pkceCodeVerifier: oidc.randomPKCECodeVerifier() }),
  );
  const first = await oidc.authorizationCodeGrant(config, arrived, checks, { resource: told.identity });
  const claims = first.claims();
  const userinfo = await oidc.fetchUserInfo(config, first.access_token, claims.sub);
  const second = await oidc.refreshTokenGrant(config, first.refresh_token, { resource: told.orders, scope: told.narrow });
  const introspected = told.client_secret
    ? await oidc.tokenIntrospection(config, second.access_token)
    : await refusal(() => oidc.tokenIntrospection(config, second.access_token));
  await oidc.tokenRevocation(config, second.refresh_token);
  say({
    wrong_verifier: wrong,
    first,
    claims,
    userinfo,
    second,
    refreshed_claims: second.claims(),
    introspected,
    end_session: told.post_logout_redirect_uri
      ? oidc.buildEndSessionUrl(config, {
          id_token_hint: first.id_token,
          post_logout_redirect_uri: told.post_logout_redirect_uri,
          state: "left",
        }).href
      : undefined,
    refresh_after_revocation: await refusal(() => oidc.refreshTokenGrant(config, second.refresh_token)),
    userinfo_after_revocation: await refusal(() => oidc.fetchUserInfo(config, first.access_token, claims.sub)),
  });
}

try {
  await run();
} catch (error) {
  say({ failed: String(error), cause: String(error.cause ?? ""), error: error.error, description: error.error_description });
}
process.exit(0);
