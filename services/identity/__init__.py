"""identity: who you are.

Owns        users, clients, login sessions, grants, signing keys and revocations, all in SQL.
Publishes   the signed revocation log and its heartbeat (Redis stream and channel, and gRPC Replay); `identity.events`,
            what people should hear of their accounts; logout tokens, to the clients that a session signed in to.
Consumes    nothing.
Never       asks Redis to decide anything: its own routes and Introspect read SQL and work without it.
"""
