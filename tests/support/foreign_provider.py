"""Another OpenID Connect provider, small and real: it signs with keys of its own, and can be told to lie."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, Request
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.responses import JSONResponse

ISSUER = "https://login.acme.example"
CLIENT_ID, CLIENT_SECRET = "rescind-at-acme", "acme-secret"


def _key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


@dataclass
class ForeignProvider:
    """Whom it vouches for, and how it lies: `twist` changes the claims, `sign` replaces the signature."""

    person: dict[str, Any] = field(default_factory=dict)
    twist: Callable[[dict[str, Any]], None] = lambda _claims: None
    sign: Callable[["ForeignProvider", dict[str, Any]], str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    github: dict[str, Any] | None = None
    userinfo: dict[str, Any] | None = None  # without one there is no such endpoint
    key: RSAKey = field(default_factory=lambda: _key("acme-1"))
    stranger: RSAKey = field(default_factory=lambda: _key("acme-1"))
    _asked: dict[str, dict[str, str]] = field(default_factory=dict)

    def visit(self, url: str) -> dict[str, str]:
        """What a person brings back who signs in there: `code`, `state`, `iss`."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = base64.urlsafe_b64encode(hashlib.sha256(url.encode()).digest()).decode().rstrip("=")
        self._asked[code] = asked
        return {"code": code, "state": asked["state"]}

    def signed(self, claims: dict[str, Any], *, alg: str = "RS256", key: Any = None) -> str:
        return jwt.encode({"alg": alg, "kid": "acme-1"}, claims, key or self.key)

    @property
    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def discovery() -> dict[str, Any]:
            described = {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/authorize",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": f"{ISSUER}/jwks",
            }
            if self.userinfo is not None:
                described["userinfo_endpoint"] = f"{ISSUER}/userinfo"
            return described | self.metadata

        @app.get("/jwks")
        def keys() -> dict[str, Any]:
            return {"keys": [self.key.as_dict(private=False)]}

        @app.post("/token")
        @app.post("/login/oauth/access_token")
        async def token(request: Request) -> JSONResponse:
            form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            asked = self._asked.pop(form.get("code", ""), None)
            pair = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
            challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
            known = request.headers.get("authorization") == f"Basic {pair}"
            if asked is None or not known or asked["code_challenge"] != challenge.decode():
                return JSONResponse({"error": "invalid_grant"}, 400)
            answer = {"access_token": "upstream-access", "token_type": "Bearer", "expires_in": 60}
            if self.github is None:
                now = int(time.time())
                claims = {
                    "iss": ISSUER,
                    "aud": CLIENT_ID,
                    "iat": now,
                    "exp": now + 300,
                    "nonce": asked.get("nonce", ""),
                }
                if "max_age" in asked:
                    claims["auth_time"] = now  # the person has signed in anew
                claims |= self.person
                self.twist(claims)
                answer["id_token"] = self.sign(self, claims) if self.sign else self.signed(claims)
            return JSONResponse(answer)

        @app.get("/userinfo")
        def userinfo(request: Request) -> JSONResponse:
            assert request.headers["authorization"] == "Bearer upstream-access"
            return JSONResponse(self.userinfo)

        @app.get("/user")
        def user(request: Request) -> JSONResponse:
            assert request.headers["authorization"] == "Bearer upstream-access"
            return JSONResponse((self.github or {})["user"])

        @app.get("/user/emails")
        def emails() -> JSONResponse:
            return JSONResponse((self.github or {})["emails"])

        return app


def unsigned(_provider: ForeignProvider, claims: dict[str, Any]) -> str:
    """`alg: none`."""
    parts = [json.dumps({"alg": "none", "typ": "JWT"}), json.dumps(claims)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts) + "."


def by_a_stranger(provider: ForeignProvider, claims: dict[str, Any]) -> str:
    """Signed by a key that the provider does not publish, under the name of one that it does."""
    return provider.signed(claims, key=provider.stranger)


def by_secret(provider: ForeignProvider, claims: dict[str, Any]) -> str:
    """HS256 with the public key as the secret; made by hand, because no library makes it."""
    parts = (json.dumps({"alg": "HS256", "kid": "acme-1"}), json.dumps(claims))
    text = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    signature = hmac.digest(provider.key.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
