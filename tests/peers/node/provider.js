// Another provider on oidc-provider, driven line by line over standard input and output, as client.js is.
//
// Told {client_id, client_secret, redirect_uri, email_verified?, userinfo_only?}, it answers {issuer} and serves there,
// with its own pages for signing in, until its input ends. Whoever signs in is called what they typed, at example.com.

import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { createInterface } from "node:readline";

console.info = console.warn = console.error; // what it says of development goes to standard error
const { default: Provider } = await import("oidc-provider");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const told = JSON.parse((await lines.next()).value);

const server = createServer();
await new Promise((resolve) => server.listen(0, "localhost", resolve));
const issuer = `http://localhost:${server.address().port}`;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(issuer, {
  clients: [
    { client_id: told.client_id, client_secret: told.client_secret, redirect_uris: [told.redirect_uri] },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: "peer-1" }] },
  cookies: { keys: ["of the peer"] },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  conformIdTokenClaims: told.userinfo_only ?? false, // its default keeps all but `sub` for the userinfo endpoint
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      name: id[0].toUpperCase() + id.slice(1),
      email: `${id}@example.com`,
      email_verified: told.email_verified ?? true,
    }),
  }),
});
server.on("request", provider.callback());
process.stdout.write(JSON.stringify({ issuer }) + "\n");

await lines.next(); // the input has ended
server.closeAllConnections();
server.close();
process.exit(0);
