"""Tables of people's own doings. Locks are taken after those of identity.storage's tables, and before the log's."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, Table, Text
from sqlalchemy.types import JSON

from identity.storage import metadata

# A secret that was mailed and works once. What a stranger could present is stored as a SHA-256 only.
mail_links = Table(
    "mail_links",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("purpose", Text, nullable=False),  # signup | reset | verify | vouch
    Column("email", Text, nullable=False),  # the address that it proves
    Column("user_id", ForeignKey("users.id"), index=True),  # null: of nobody yet
    Column("hard_gen", BigInteger),  # the user's when it was made: whatever signs out everywhere ends it, too
    Column("about", JSON, nullable=False),  # what is to be done with the proof, beside its purpose
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("consumed_at", BigInteger),
)

# Mail that waits to be sent; a row is gone once a server has taken it.
mails = Table(
    "mails",
    metadata,
    Column("id", Text, primary_key=True),
    Column("recipient", Text, nullable=False),
    Column("letter", Text, nullable=False),  # which of identity.people.letters
    Column("sealed", LargeBinary, nullable=False),  # what it says, links included: AES-256-GCM, bound to the id
    Column("created_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False, index=True),  # while it is being sent: when another may try
    Column("expires_at", BigInteger, nullable=False),  # nobody wants it later than this
    Column("attempts", Integer, nullable=False),
    Column("given_up_at", BigInteger),
    Column("failure", Text),  # UPPER_SNAKE and codes, never a server's own words
)

# Who else vouches for somebody: an account at another provider, linked after proof of both.
user_identities = Table(
    "user_identities",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("subject", Text, primary_key=True),  # what the provider calls them, for ever
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("shown_as", Text, nullable=False),  # for the account page
    Column("linked_at", BigInteger, nullable=False),
)
