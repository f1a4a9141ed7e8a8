"""Identity's tables. SQL is the truth for everything: people, clients, sessions, grants, keys and revocations.
Receipts are the exception: they tell what verifiers say.

Times are milliseconds since the epoch by the database clock. Whatever a stranger could present (a cookie, a code, a
refresh token) is stored as a SHA-256 only.

Row locks are always taken in this order, so that no two transactions wait for each other: user, client, login
session, grant, code (also a device's) or refresh token, the outbox's counter of an account (of several, the smaller id
first), signing key, and the log's counter row last.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.types import JSON

from eventlog.outbox import declare_outbox

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),  # usr_...
    Column("email", Text, nullable=False, unique=True),  # lower case
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),  # empty: no password, another provider vouches
    Column("roles", JSON, nullable=False),  # list of strings; "admin" permits the :admin scopes
    Column("gen", BigInteger, nullable=False),  # subject generation: stamped into tokens
    Column("hard_gen", BigInteger, nullable=False),  # `gen` as the last hard revocation left it
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    Column("email_verified_at", BigInteger),  # null: nobody has proven that they read mail there
)

clients = Table(
    "clients",
    metadata,
    Column("id", Text, primary_key=True),  # client_id; its own tokens say sub = svc_<id>
    Column("name", Text, nullable=False),
    Column("secret_hash", Text),  # SHA-256, hex, of a random secret; null: a public client
    Column("first_party", Boolean, nullable=False),
    Column("redirect_uris", JSON, nullable=False),
    Column("grant_types", JSON, nullable=False),
    Column("scopes", JSON, nullable=False),  # the most it may ask for
    Column("resources", JSON, nullable=False),  # the audiences it may ask for
    Column("permissions", JSON, nullable=False),  # of: contacts, introspect, introspect_any, replay, revoke
    Column("refresh_without_offline", Boolean, nullable=False),  # the session service's client
    Column("exchange_scopes", JSON, nullable=False, server_default="[]"),  # the most it may get by token exchange
    Column("asks_always", Boolean, nullable=False, server_default=false()),  # consent is asked for, remembered or not
    Column("jwks", JSON(none_as_null=True)),  # public keys (RFC 7517) of a client that signs its assertions
    Column("post_logout_redirect_uris", JSON, nullable=False, server_default="[]"),
    Column("backchannel_logout_uri", Text),
    Column("gen", BigInteger, nullable=False),
    Column("hard_gen", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
)

login_sessions = Table(
    "login_sessions",
    metadata,
    Column("id", Text, primary_key=True),  # sid
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("cookie_hash", Text, nullable=False, unique=True),
    Column("hard_gen", BigInteger, nullable=False),  # the user's when the password was checked
    Column("amr", Text, nullable=False, server_default="pwd"),  # how the person signed in (RFC 8176), space separated
    Column("auth_time", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    # For the person alone, to tell one from another. Empty: unknown.
    Column("user_agent", Text, nullable=False, server_default=""),
    Column("network", Text, nullable=False, server_default=""),  # the address, cut to its /24 or /48
)

grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),  # gid
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("client_id", ForeignKey("clients.id"), nullable=False, index=True),
    Column("session_id", ForeignKey("login_sessions.id"), index=True),  # null: offline_access, outlives a sign-out
    # The login session it was given in, tied to it or not. No foreign key: the grant may outlive that row.
    Column("begun_in", Text),
    Column("scope", Text, nullable=False),  # space separated
    Column("resources", JSON, nullable=False),  # the audiences that were authorized
    Column("user_hard_gen", BigInteger, nullable=False),
    Column("client_hard_gen", BigInteger, nullable=False),
    Column("auth_time", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # absolute: rotation never moves it
    Column("ended_at", BigInteger),
)

codes = Table(
    "codes",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("grant_id", Text, nullable=False),  # the gid that redeeming makes, and reuse ends
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("client_id", ForeignKey("clients.id"), nullable=False),
    Column("session_id", ForeignKey("login_sessions.id"), nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("resources", JSON, nullable=False),
    Column("nonce", Text),
    Column("code_challenge", Text, nullable=False),  # S256 always
    Column("user_hard_gen", BigInteger, nullable=False),
    Column("client_hard_gen", BigInteger, nullable=False),
    Column("auth_time", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("consumed_at", BigInteger),
)

# A device that waits for a person (RFC 8628). What the person decides is written into the row; the device polls it.
device_codes = Table(
    "device_codes",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("user_code_hash", Text, nullable=False, unique=True),
    Column("grant_id", Text, nullable=False),  # the gid that redeeming makes
    Column("client_id", ForeignKey("clients.id"), nullable=False),
    Column("scope", Text, nullable=False),  # asked for; once it is allowed, what may be had of it
    Column("resources", JSON, nullable=False),
    Column("client_hard_gen", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("poll_interval", BigInteger, nullable=False),  # ms; five seconds more each time it is polled too soon
    Column("polled_at", BigInteger, nullable=False),  # 0: never
    # The earliest sign-in that may let the device in.
    Column("signed_in_since", BigInteger, nullable=False, server_default=text("0")),
    Column("decided_at", BigInteger),
    Column("allowed", Boolean),
    # Who allowed it, and under what, as in a code.
    Column("user_id", ForeignKey("users.id")),
    Column("session_id", ForeignKey("login_sessions.id"), index=True),
    Column("user_hard_gen", BigInteger),
    Column("auth_time", BigInteger),
    Column("consumed_at", BigInteger),
)

# User codes that a person entered and that were none: who guesses is stopped.
wrong_user_codes = Table(
    "wrong_user_codes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Index("ix_wrong_user_codes_user_id_at", "user_id", "at"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("grant_id", ForeignKey("grants.id"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("consumed_at", BigInteger),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),  # RFC 7638 thumbprint
    Column("purpose", Text, nullable=False),  # access | log
    Column("status", Text, nullable=False),  # prepared | active | retired | revoked
    Column("public_jwk", JSON, nullable=False),
    Column("private_encrypted", LargeBinary, nullable=False),  # AES-256-GCM; the kid is the associated data
    Column("created_at", BigInteger, nullable=False),
    Column("activated_at", BigInteger),
    Column("retired_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index("ix_signing_keys_purpose_status", "purpose", "status"),
    # At no time do two keys sign for one purpose, whatever two replicas do at once.
    Index(
        "uq_signing_keys_one_active",
        "purpose",
        unique=True,
        postgresql_where=text("status = 'active'"),
        sqlite_where=text("status = 'active'"),
    ),
)

# One row: the counter that gives positions, locked last.
log_state = Table(
    "log_state",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("log", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("head_hash", Text, nullable=False),
    Column("longest_life", BigInteger, nullable=False),  # ms: the longest life of an access token ever issued
)

revocations = Table(
    "revocations",
    metadata,
    Column("log", Text, primary_key=True),
    Column("pos", BigInteger, primary_key=True, autoincrement=False),
    Column("message", LargeBinary, nullable=False),  # the signed message itself
    Column("hash", Text, nullable=False),
    Column("entries", JSON, nullable=False),
    Column("cause", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("dead_at", BigInteger, nullable=False, index=True),  # the last token it can match has expired
)

# What Introspect and issuing ask: is this one jti revoked? (Sessions, grants and generations are in their own tables.)
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("jti", Text, primary_key=True),
    Column("dead_at", BigInteger, nullable=False, index=True),
)

# Authorization requests that clients have pushed (RFC 9126), and long ones whose person is at another provider: each is
# taken out once.
pushed_requests = Table(
    "pushed_requests",
    metadata,
    Column("hash", Text, primary_key=True),  # of the secret in the request_uri
    Column("client_id", ForeignKey("clients.id"), nullable=False),
    Column("query", Text, nullable=False),  # as it would have come to /authorize
    Column("expires_at", BigInteger, nullable=False, index=True),
)

# The assertions by which clients have authenticated (RFC 7523): each counts once.
client_assertions = Table(
    "client_assertions",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("jti_hash", Text, primary_key=True),  # a client may choose any text for it
    Column("expires_at", BigInteger, nullable=False, index=True),
)

# Logout tokens that clients are still owed (OpenID Connect Back-Channel Logout): written where a session ends.
logout_deliveries = Table(
    "logout_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client_id", ForeignKey("clients.id"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("sid", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False, index=True),
    Column("expires_at", BigInteger, nullable=False),
)

# What is told on `identity.events`, and how far it was published.
outbox = declare_outbox(metadata)

# Who verifies tokens and how far each is: what they said last. A row here proves nothing.
verifiers = Table(
    "verifiers",
    metadata,
    Column("id", Text, primary_key=True),  # vrf_..., made by the verifier at its start
    Column("client_id", Text, nullable=False),  # whose token it reported with
    Column("audience", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("log", Text, nullable=False),
    Column("pos", BigInteger, nullable=False),  # everything up to here is applied
    Column("freshness", Text, nullable=False),  # SYNCING | FRESH | STALE
    Column("reported_at", BigInteger, nullable=False, index=True),
)

# How long each position took to each verifier. No foreign key: a verifier's row may be gone before these are.
receipts = Table(
    "receipts",
    metadata,
    Column("log", Text, primary_key=True),
    Column("pos", BigInteger, primary_key=True, autoincrement=False),
    Column("verifier_id", Text, primary_key=True),
    Column("delay_ms", Float, nullable=False),  # from the revocation's `at`, by two clocks
    Column("reported_at", BigInteger, nullable=False, index=True),
)


def shared(query: Select[Any]) -> Select[Any]:
    """`query` with its rows kept from changing until the transaction ends (FOR SHARE; SQLite has the whole file)."""
    return query.with_for_update(read=True)


def exclusive(query: Select[Any]) -> Select[Any]:
    """`query` with its rows ours alone (FOR NO KEY UPDATE, so that foreign-key checks elsewhere need not wait)."""
    return query.with_for_update(key_share=True)
