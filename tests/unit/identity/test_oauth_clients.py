"""Which redirect URIs are a client's, and how it shows who it is."""

import pytest

from identity.domain import secret_digest
from identity.oauth.clients import Client


def client(*redirect_uris: str, secret: str | None = None) -> Client:
    return Client(
        id="c",
        name="C",
        secret_hash=None if secret is None else secret_digest(secret),
        first_party=False,
        redirect_uris=redirect_uris,
        grant_types=frozenset({"authorization_code"}),
        scopes=frozenset({"openid", "orders:read"}),
        resources=(),
        permissions=frozenset(),
        refresh_without_offline=False,
    )


@pytest.mark.requirement(48)
@pytest.mark.parametrize(
    ("registered", "presented", "same"),
    [
        ("https://app.example/cb", "https://app.example/cb", True),
        ("https://app.example/cb", "https://app.example:443/cb", False),
        ("https://app.example/cb", "https://app.example/cb?", False),
        ("https://app.example/cb", "https://app.example/cb/..", False),
        ("https://app.example/cb", "https://APP.example/cb", False),
        ("https://app.example/cb", "https://app.example.evil/cb", False),
        ("https://app.example/cb", "http://app.example/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:49152/cb", True),
        ("http://127.0.0.1:1/cb", "http://127.0.0.1:49152/cb", True),
        ("http://127.0.0.1/cb", "http://127.0.0.1:65536/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:٣/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.2:80/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:80/cb\n", False),
        ("http://[::1]/cb", "http://[::1]:49152/cb", True),
        ("http://[::1]/cb", "http://127.0.0.1:49152/cb", False),
        ("http://localhost:8000/cb", "http://localhost:8001/cb", False),
        ("https://127.0.0.1/cb", "https://127.0.0.1:49152/cb", False),
        ("com.example.app:/cb", "com.example.app:/cb", True),
        ("com.example.app:/cb", "com.example.app:/cb2", False),
    ],
)
def test_exact_save_the_port_of_a_loopback_literal(registered: str, presented: str, same: bool) -> None:
    assert client(registered).check_redirect_uri(presented) is same


def test_nothing_registered_matches_nothing() -> None:
    assert not client().check_redirect_uri("")
    assert client("https://app.example/cb").get_default_redirect_uri() is None


@pytest.mark.requirement(57)
def test_a_client_with_a_secret_shows_it_and_one_without_has_none() -> None:
    public, confidential = client(), client(secret="s3cret")
    assert not public.check_client_secret("")
    assert not public.check_client_secret("s3cret")
    assert confidential.check_client_secret("s3cret")
    assert not confidential.check_client_secret("")
    for endpoint in ("token", "revocation", "introspection"):
        assert public.check_endpoint_auth_method("none", endpoint)
        assert not public.check_endpoint_auth_method("client_secret_post", endpoint)
        assert not confidential.check_endpoint_auth_method("none", endpoint)
        assert confidential.check_endpoint_auth_method("client_secret_basic", endpoint)


def test_scope_is_narrowed_to_what_is_registered_and_refused_if_nothing_is_left() -> None:
    assert client().get_allowed_scope("orders:read orders:read email openid") == "orders:read openid"
    assert client().get_allowed_scope("email") is None
    assert client().get_allowed_scope("") is None
    assert client().get_allowed_scope(None) is None
