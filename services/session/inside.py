"""A session's access tokens taken apart for its person to look at. What leaves here cannot be presented anywhere."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from session.domain import Held
from session.sealing import SealBroken, Vault
from session.token_handler import access_purpose


@dataclass(frozen=True, slots=True)
class Shown:
    """The two readable parts of an access token, without the signature that makes it one. `expires_at` in ms."""

    audience: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    expires_at: int


class Inside:
    """Reads what sessions hold."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def tokens_of(self, held: Held) -> Sequence[Shown]:
        """The tokens that are cached, by audience; one that cannot be opened is left out."""
        shown = []
        for audience, kept in sorted(held.tokens.items()):
            try:
                token = self._vault.open(held.session.key, access_purpose(audience), kept.sealed)
            except SealBroken:
                continue
            header, claims, _signature = token.split(".")
            shown.append(Shown(audience, _decoded(header), _decoded(claims), kept.expires_at))
        return shown


def _decoded(segment: str) -> Mapping[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    return value
