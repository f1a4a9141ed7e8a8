"""OAuth 2.0 and OpenID Connect in front of issuing: who may ask for what, and how it is answered.

Does        RFC 6749 (code, refresh, client credentials), 7636 (S256 only), 8252 (loopback ports), 8707 (`resource`),
            9207 (`iss`), 7009, 7662, 8414, 7523 (private_key_jwt), 9126 (PAR); OpenID Connect Core (`nonce`, `prompt`,
            `max_age`), Discovery and RP-Initiated Logout.
Built on    Authlib's server core, which is synchronous: one server object speaks inside one transaction.
Never       decides whether something lives: that is `issuing`, behind its row locks.

    requests       parameters as they came, each once
    clients        who is asking
    assertions     who is asking, by a signature
    grants         the three ways to a token
    endpoints      revoke and introspect
    server         all of it in one transaction, rolled back on refusal
    authorization  /authorize: to the client, to sign-in, to consent, or to an error page
    pushed         /par, and what /authorize makes of it
    end_session    may this client sign this person out, and where does the browser go
    metadata       what is offered
"""
