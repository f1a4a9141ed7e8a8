"""OAuth's words for what issuing refuses, and the few error codes that Authlib lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidScopeError, UnauthorizedClientError

from identity.domain import InvalidGrant, InvalidScope, InvalidTarget, NotSignedIn, UnauthorizedClient


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]  # Authlib is untyped
    """RFC 8707 section 2: an audience that is unknown, not the client's to ask for, or left open."""

    error = "invalid_target"
    description = "The requested resource is invalid, unknown, or was not authorized."


class LoginRequiredError(OAuth2Error):  # type: ignore[misc]
    """OpenID Connect Core section 3.1.2.6: `prompt=none`, and nobody is signed in (or not recently enough)."""

    error = "login_required"
    description = "The person has to sign in."


class ConsentRequiredError(OAuth2Error):  # type: ignore[misc]
    """OpenID Connect Core section 3.1.2.6: `prompt=none`, and the person has to consent."""

    error = "consent_required"
    description = "The person has to consent."


class NotSupportedError(OAuth2Error):  # type: ignore[misc]
    """OpenID Connect Core section 3.1.2.6: `request`, `request_uri` and `registration` are not offered."""

    description = "This parameter is not supported."


@contextmanager
def in_oauth_words() -> Iterator[None]:
    """Says what issuing refuses as an OAuth error. The description is fixed: it tells nothing about an account."""
    try:
        yield
    except InvalidTarget:
        raise InvalidTargetError from None
    except InvalidScope:
        raise InvalidScopeError from None
    except (InvalidGrant, NotSignedIn):
        raise InvalidGrantError("The code or token is invalid, expired, spent, or was taken back.") from None
    except UnauthorizedClient:
        raise UnauthorizedClientError("The client may not do this.") from None
