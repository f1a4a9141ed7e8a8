"""Which providers people may sign in with: a JSON list in IDENTITY_PROVIDERS.

[{"id": "google", "preset": "google", "client_id": "...", "client_secret": "..."},
 {"id": "ms", "preset": "microsoft", "tenant": "<tenant id>", "client_id": "...", "client_secret": "..."},
 {"id": "github", "preset": "github", "client_id": "...", "client_secret": "..."},
 {"id": "acme", "name": "Acme", "issuer": "https://login.acme.example", "client_id": "...", "client_secret": "..."}]
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

_ISSUERS: Mapping[str, str] = MappingProxyType(
    {
        "google": "https://accounts.google.com",
        # A tenant of one's own: the issuer of `common` is a template, and anybody in the world has an account there.
        "microsoft": "https://login.microsoftonline.com/{tenant}/v2.0",
    }
)
_NAMES: Mapping[str, str] = MappingProxyType({"google": "Google", "microsoft": "Microsoft", "github": "GitHub"})
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Provider(BaseModel):
    """One provider. GitHub has no issuer: it speaks OAuth 2.0 without OpenID Connect."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    name: str = ""
    preset: Literal["", "google", "microsoft", "github"] = ""
    tenant: str = Field("", pattern=r"^[A-Za-z0-9.-]{0,64}$")
    issuer: str = ""
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    github: str = "https://github.com"  # GitHub Enterprise has an address of its own
    github_api: str = "https://api.github.com"

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "")
        filled = {"name": _NAMES.get(preset, ""), **given}
        if preset == "microsoft" and given.get("tenant") in (None, "", "common", "organizations", "consumers"):
            raise ValueError("microsoft needs the id of one tenant")
        if preset in _ISSUERS:
            filled["issuer"] = _ISSUERS[preset].format(tenant=given.get("tenant", ""))
        return filled

    @model_validator(mode="after")
    def _whole(self) -> "Provider":
        if not self.name:
            raise ValueError("a provider needs a name")
        if not self.is_github and not is_safe(self.issuer):
            raise ValueError("issuer must be https, or http on this machine, and not end with a slash")
        return self

    @property
    def is_github(self) -> bool:
        """Whether it is GitHub, which needs words of its own."""
        return self.preset == "github"


def is_safe(url: str) -> bool:
    """Whether secrets may be sent there: https, or http that stays on this machine."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    return (parts.scheme == "https" or local) and bool(parts.hostname) and not url.endswith("/") and not parts.fragment


def parse_providers(text: str) -> tuple[Provider, ...]:
    """The providers of the setting.

    Raises:
        ValueError: says which is wrong and why, without a secret.
    """
    try:
        listed = json.loads(text)
        providers = tuple(Provider.model_validate(item) for item in listed)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc'])) or 'a provider'}: {fault['msg']}") from None
    except (TypeError, ValueError):
        raise ValueError("not a JSON list of providers") from None
    if len({provider.id for provider in providers}) != len(providers):
        raise ValueError("two providers have the same id")
    return providers
