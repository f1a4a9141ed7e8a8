"""OAuth 2.0 and OpenID Connect in front of issuing: who may ask for what, and how it is answered.

Does        RFC 6749 (code, refresh, client credentials), 7636 (S256 only), 8252 (loopback ports), 8707 (`resource`),
            9207 (`iss`), 7009, 7662, 8414; OpenID Connect Core (`nonce`, `prompt`, `max_age`) and Discovery.
Built on    Authlib's server core, which is synchronous: one server object speaks inside one transaction.
Never       decides whether something lives: that is `issuing`, behind its row locks.

    requests       parameters as they came, each once
    clients        who is asking
    grants         the three ways to a token
    endpoints      revoke and introspect
    server         all of it in one transaction, rolled back on refusal
    authorization  /authorize: to the client, to sign-in, to consent, or to an error page
    metadata       what is offered
"""
