// A device on the certified library openid-client (RFC 8628), driven line by line as client.js is.
//
// Told {issuer, client_id, scope, resource}, it answers {device: what it shows, pending}, is told {decided: true} once a
// person has decided, polls, and answers {tokens} or {error}. Told {exchange: {...}} at the start instead, it exchanges a
// token that it was given (RFC 8693).

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
  const how = told.client_secret ? oidc.ClientSecretBasic(told.client_secret) : oidc.None();
  const config = await oidc.discovery(new URL(told.issuer), told.client_id, undefined, how, {
    execute: [oidc.allowInsecureRequests], // plain http, on the loopback only
  });
  oidc.enableNonRepudiationChecks(config);

  if (told.exchange) {
    const grant = "urn:ietf:params:oauth:grant-type:token-exchange";
    const exchanged = await oidc.genericGrantRequest(config, grant, told.exchange);
    const again = { ...told.exchange, scope: "orders:write" };
    say({ exchanged, wider: await refusal(() => oidc.genericGrantRequest(config, grant, again)) });
    return;
  }

  const device = await oidc.initiateDeviceAuthorization(config, { scope: told.scope, resource: told.resource });
  const grant = "urn:ietf:params:oauth:grant-type:device_code";
  const pending = await refusal(() =>
    oidc.genericGrantRequest(config, grant, { device_code: device.device_code }),
  );
  say({ device, pending });

  await hear();
  try {
    // Somebody has decided, so there is nothing left to wait for.
    const tokens = await oidc.pollDeviceAuthorizationGrant(config, { ...device, interval: 1 });
    const spent = await refusal(() =>
      oidc.genericGrantRequest(config, grant, { device_code: device.device_code }),
    );
    say({ tokens, claims: tokens.claims(), spent });
  } catch (error) {
    say({ error: error.error ?? error.code ?? String(error) });
  }
}

try {
  await run();
} catch (error) {
  say({ failed: String(error), cause: String(error.cause ?? ""), error: error.error, description: error.error_description });
}
process.exit(0);
