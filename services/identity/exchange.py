"""Token exchange (RFC 8693): a service that was called with a person's token gets one of its own for the next service.

What it may not do is written here once:

- only the service that a token was made for may exchange it, so a token that leaked elsewhere is worth no more;
- the new token is for one service, which has not been in the chain before, so no right comes back that was left out;
- its scope is what the person granted to the first client, of that what the acting client is registered for
  (`exchange_scopes`), and of that what means something at the new audience;
- it carries `sid`, `gid` and `gen` of the token it came from, that token's `jti` as `ojti`, and the generation of every
  client in the chain: whatever takes back the parent, its session, its grant, the person or any of these clients
  refuses the new token too, at every verifier, without another entry in the log;
- it ends no later than its parent, and with it no later than the grant.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from identity.domain import AccessToken, ClientId, GrantId, InvalidGrant, InvalidScope, InvalidTarget, scope_for
from identity.introspection import prior_actors
from identity.issuing import Issuer
from identity.standing import living_client, living_grant, user_row
from rescind.claims import MAX_PRIOR_ACTORS, SERVICE_PREFIX, USER_PREFIX

_AUDIENCE_PREFIX = "urn:rescind:"


def lock_chain(issuer: Issuer, tx: Connection, claims: Mapping[str, Any], acting: ClientId) -> None:
    """Locks what an exchange of a token with these claims depends on, in the order that all transactions keep to.

    Judge the token afterwards: what is found good then stays good until the commit, or matches the new token too.

    Raises:
        InvalidGrant: it is no person's token, or its grant, session or person has ended.
        UnauthorizedClient: a client of the chain is unknown or disabled.
    """
    if not claims["sub"].startswith(USER_PREFIX):
        raise InvalidGrant("a client's own token is not exchanged")
    user_row(tx, claims["sub"])
    for client_id in sorted({acting, *_clients_of(claims)}):
        living_client(tx, client_id)
    living_grant(tx, GrantId(claims["gid"]), issuer.now(tx))


def exchange(
    issuer: Issuer,
    tx: Connection,
    claims: Mapping[str, Any],
    *,
    acting: ClientId,
    audience: str,
    scope: str | None,
) -> AccessToken:
    """A token for `audience` with which `acting` acts for the person behind `claims`.

    `claims` are those of a token that was judged good in this transaction, behind `lock_chain`.

    Raises:
        InvalidGrant: the token was not made for the acting client, or has been passed on too often.
        InvalidTarget: the audience was not authorized by the person, is not the client's to ask for, or comes again.
        InvalidScope: more was asked for than may be had, or nothing may be had.
    """
    if claims["aud"] != f"{_AUDIENCE_PREFIX}{acting}":
        raise InvalidGrant("the token was made for another service")
    chain = _clients_of(claims)
    if len(chain) > MAX_PRIOR_ACTORS:
        raise InvalidGrant("the token has been passed on too often")
    grant, user, _ = living_grant(tx, GrantId(claims["gid"]), issuer.now(tx))
    client = living_client(tx, acting)
    passed = {claims["aud"], *(f"{_AUDIENCE_PREFIX}{client_id}" for client_id in chain)}
    if audience in passed or audience not in grant.resources:
        raise InvalidTarget(audience)
    granted = set(grant.scope.split()) & set(client.exchange_scopes)
    ceiling = scope_for(granted, audience=audience, roles=user.roles)
    wanted = ceiling.split() if scope is None else scope.split()
    if not wanted or not set(wanted) <= set(ceiling.split()):
        raise InvalidScope("more than may be had by this exchange")
    stamps: dict[str, Any] = {
        "gid": grant.grant_id,
        "gen": claims["gen"],
        "cgen": client.gen,
        "auth_time": claims["auth_time"],
        "ojti": claims["jti"],
        "act": {"sub": f"{SERVICE_PREFIX}{acting}", "act": _link(claims)},
    }
    if "sid" in claims:
        stamps["sid"] = claims["sid"]
    narrowed = scope_for(wanted, audience=audience, roles=user.roles)
    not_after = min(grant.expires_at, claims["exp"] * 1000)
    if not_after < issuer.now(tx) + 1000:
        raise InvalidGrant("the token ends this very second, or lives by leeway alone")
    return issuer.sign(tx, claims["sub"], acting, audience, narrowed, stamps, not_after=not_after)


def _clients_of(claims: Mapping[str, Any]) -> list[str]:
    """The clients in whose hands the person's rights have been, the latest first."""
    return [claims["client_id"], *(actor["sub"].removeprefix(SERVICE_PREFIX) for actor in prior_actors(claims))]


def _link(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The client of the parent token as a prior actor, with its generation, and what was before it."""
    link: dict[str, Any] = {"sub": f"{SERVICE_PREFIX}{claims['client_id']}", "cgen": claims["cgen"]}
    if "act" in claims:
        link |= {"ojti": claims["ojti"], "act": claims["act"]["act"]}
    return link
