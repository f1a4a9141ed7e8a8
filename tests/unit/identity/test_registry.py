"""What may be registered as a client, and what best current practice refuses."""

from dataclasses import replace

import pytest

from identity.admin.registry import DEVICE, EXCHANGE, check
from identity.service import NewClient
from servicekit.errors import ServiceError

GOOD = NewClient(
    "reports",
    "Monthly reports",
    redirect_uris=("https://reports.example/callback",),
    grant_types=("authorization_code", "refresh_token"),
    scopes=("openid", "orders:read"),
    resources=("urn:rescind:orders",),
)
REDIRECTS = [
    "https://*.example/callback",
    "https://reports.example/#x",
    "https://user@reports.example/",
    "http://reports.example/callback",
    "http://127.0.0.1.evil.example/",
    "https://",
    "javascript:alert(1)",
    "data:text/html,x",
    "myapp:/callback",
    "https://reports.example/a b",
    "https://reports.example/\\@evil.example",
    "https://rep\u00f6rts.example/",
    "https://reports.example:99999/",
    "",
]


@pytest.mark.parametrize("uri", ["http://localhost/cb", "http://[::1]:7777/cb", "com.example.app:/callback"])
def test_a_good_client_may_be_registered(uri: str) -> None:
    check(GOOD, confidential=True)
    check(replace(GOOD, redirect_uris=(uri,)), confidential=False)
    check(replace(GOOD, grant_types=(DEVICE,), redirect_uris=()), confidential=False)


@pytest.mark.requirement(48)
@pytest.mark.parametrize("uri", REDIRECTS)
def test_a_redirect_uri_is_exact_and_safe(uri: str) -> None:
    with pytest.raises(ServiceError) as refused:
        check(replace(GOOD, redirect_uris=(uri,)), confidential=True)
    assert set(refused.value.fields) == {"redirect_uris"}


@pytest.mark.requirement(51, 65)
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "usr_abc"}, "client_id"),
        ({"id": "Reports"}, "client_id"),
        ({"id": ""}, "client_id"),
        ({"id": "x" * 64}, "client_id"),
        ({"name": "  "}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"grant_types": ("password", "authorization_code")}, "grant_types"),
        ({"grant_types": (), "redirect_uris": ()}, "grant_types"),
        ({"redirect_uris": ()}, "redirect_uris"),
        ({"grant_types": ("client_credentials",)}, "redirect_uris"),
        ({"scopes": ("everything",)}, "scopes"),
        ({"resources": ("urn:other",)}, "resources"),
        ({"permissions": ("root",)}, "permissions"),
    ],
)
def test_what_is_wrong_is_said_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ServiceError) as refused:
        check(replace(GOOD, **changes), confidential=True)  # type: ignore[arg-type]
    assert refused.value.reason == "CLIENT_NOT_VALID"
    assert field in refused.value.fields


@pytest.mark.requirement(57)
@pytest.mark.parametrize("changes", [{"grant_types": ("client_credentials",)}, {"grant_types": (EXCHANGE,)}])
def test_a_public_client_speaks_for_nobody_but_people(changes: dict[str, object]) -> None:
    with pytest.raises(ServiceError):
        check(replace(GOOD, redirect_uris=(), **changes), confidential=False)  # type: ignore[arg-type]
    with pytest.raises(ServiceError):
        check(replace(GOOD, permissions=("revoke",)), confidential=False)
