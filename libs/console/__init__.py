"""The `rescind` command line: look at tokens, take them back, watch the log, look after people, clients and keys.

It is a client like any other: it signs in by the device grant (RFC 8628), or with a client's own secret, and everything
it does goes over identity's gRPC, where the same rules hold for it as for everybody.

tokens     the tokens that are kept between two calls, in a file for its owner alone
signin     getting them: device grant, refresh, client credentials
wire       identity over gRPC, and its refusals in words
reading    taking a token apart without believing it, and verifying it
following  the log, verified, asked of identity
listening  the log, verified, as Redis pushes it
showing    tables
cli        the commands
"""
