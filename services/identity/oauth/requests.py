"""Parameters of OAuth requests: each at most once, all of them readable text.

`resource` alone may repeat (RFC 8707 section 2). A parameter without a value counts as omitted (RFC 6749 section 3.1).
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Payload, OAuth2Request

FORM_TYPE = "application/x-www-form-urlencoded"
LONGEST_QUERY = 8192  # bytes of an authorization request; it travels in a URL of ours, signed
_MOST_PARAMETERS = 50
_MAY_REPEAT = frozenset({"resource"})


class Parameters(OAuth2Payload):  # type: ignore[misc]  # Authlib is untyped
    """What a client asked, as Authlib reads it."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._values[name].append(value)

    @classmethod
    def parse(cls, encoded: bytes) -> "Parameters":
        """Reads application/x-www-form-urlencoded.

        Raises:
            InvalidRequestError: not UTF-8, too many, a control character, or a parameter that came twice.
        """
        try:
            pairs = parse_qsl(encoded.decode(), errors="strict", max_num_fields=_MOST_PARAMETERS)
        except ValueError:
            raise InvalidRequestError("The parameters are not UTF-8, or too many.") from None
        for text in (part for pair in pairs for part in pair):
            if any(ord(sign) < 0x20 or sign == "\x7f" for sign in text):
                raise InvalidRequestError("A parameter has control characters.")
        parameters = cls(pairs)
        for name, values in parameters.datalist.items():
            if len(values) > 1 and name not in _MAY_REPEAT:
                raise InvalidRequestError("A parameter came more than once.")
        return parameters

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._values.items()}

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._values

    def get(self, name: str) -> str | None:
        """The value of a parameter, None if it was omitted."""
        values = self._values.get(name)
        return values[0] if values else None

    @property
    def resources(self) -> tuple[str, ...]:
        """The audiences that were asked for, each once, in the order of asking."""
        return tuple(dict.fromkeys(self._values.get("resource", ())))


class OAuthRequest(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib's core takes it. Its URI is built from the issuer: what a proxy says is not believed."""

    def __init__(self, method: str, uri: str, parameters: Parameters, *, authorization: str | None = None) -> None:
        """
        Raises:
            InvalidRequestError: the client authenticates in two ways at once (RFC 6749 section 2.3).
        """
        client_id = None if authorization is None else _basic_client(authorization)
        # The client that an assertion has proven (see `assertions`), once it has.
        self.proven_client: str | None = None
        super().__init__(method, uri, headers={} if client_id is None else {"Authorization": authorization})
        self.payload = parameters
        if self.has_assertion and (client_id is not None or parameters.get("client_secret") is not None):
            raise InvalidRequestError("The client authenticates in two ways.")
        if client_id is None:
            return
        if parameters.get("client_secret") is not None or parameters.get("client_id") not in (None, client_id):
            raise InvalidRequestError("The client authenticates in two ways.")

    @property
    def has_assertion(self) -> bool:
        """Whether the client shows a signature instead of a secret (RFC 7521 section 4.2)."""
        return any(self.parameters.get(name) is not None for name in ("client_assertion", "client_assertion_type"))

    @property
    def parameters(self) -> Parameters:
        """What was asked."""
        payload: Parameters = self.payload
        return payload

    @property
    def args(self) -> dict[str, str]:
        return {} if self.method == "POST" else self.parameters.data

    @property
    def form(self) -> dict[str, str]:
        return self.parameters.data if self.method == "POST" else {}


def claimed_client(request: OAuthRequest) -> str:
    """Which client the request says it is from, unproven: for counting attempts, and nothing else."""
    authorization = request.headers.get("Authorization")
    named = None if authorization is None else _basic_client(authorization)
    return named or request.parameters.get("client_id") or ""


def _basic_client(authorization: str) -> str | None:
    """The client's name in a well-formed Basic header; None for anything else, which then counts as no header."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    client_id, colon, secret = pair.partition(":")
    if not colon or "\x00" in unquote(client_id) + unquote(secret):
        return None
    return unquote(client_id)
