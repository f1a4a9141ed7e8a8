"""The attack table: every token that must be refused, how it is made, and the reason that must be given.

All are signed with real keys; each is a good token but for one thing. `rows` name the security requirements that an
attack belongs to. `wires` are where it can be sent: what no HTTP or gRPC client can put into a header is tried on the
verifier alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes

from rescind.errors import ExpiredToken, MalformedToken, RevokedToken, TokenRefused, UnknownKey, UntrustedToken
from rescind.testing import TokenMint, jwk_of, rsa_key
from support.forging import b64, compact, hmac_with, pss, public_pem, rsa, unsigned

AUDIENCE = "urn:rescind:orders"
SCOPE = "orders:read"
EVERYWHERE = ("verifier", "http", "grpc")
VERIFIER = ("verifier",)


class Forge:
    """A mint, and a good token's parts to spoil."""

    def __init__(self, mint: TokenMint, audience: str = AUDIENCE, scope: str = SCOPE) -> None:
        self.mint = mint
        self.audience = audience
        self.scope = scope
        self.header: dict[str, Any] = {"alg": "RS256", "typ": "at+jwt", "kid": mint.kid}
        self.claims = mint.claims(audience, scope=scope)
        self.sign = rsa(mint.kid)

    def with_header(self, sign: Callable[[bytes], bytes] | None = None, **changes: Any) -> str:
        """Another header, signed as it says."""
        header = {name: value for name, value in {**self.header, **changes}.items() if value is not None}
        return compact(header, self.claims, sign or self.sign)

    def with_claims(self, **changes: Any) -> str:
        """Other claims, well signed; None leaves one out."""
        claims = {**self.mint.claims(self.audience, scope=self.scope), **changes}
        return self.mint.sign({name: value for name, value in claims.items() if value is not None})

    def with_payload(self, payload: bytes) -> str:
        """Any bytes, well signed."""
        return compact(self.header, payload, self.sign)

    @property
    def good(self) -> str:
        """A token that must be accepted: what is refused is refused for the one thing that differs."""
        return compact(self.header, self.claims, self.sign)


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to get in. `forge` makes the token; `refusal` and `reason` are what must come of it."""

    name: str
    rows: tuple[int, ...]
    forge: Callable[[Forge], str]
    refusal: type[TokenRefused] = MalformedToken
    wires: tuple[str, ...] = EVERYWHERE

    @property
    def reason(self) -> str:
        """The reason on every wire."""
        return self.refusal.reason


def _flip(token: str, segment: int, position: int) -> str:
    parts = token.split(".")
    old = parts[segment][position]
    parts[segment] = parts[segment][:position] + ("A" if old != "A" else "B") + parts[segment][position + 1 :]
    return ".".join(parts)


def _twice(claims: dict[str, Any], member: str, value: Any) -> bytes:
    return json.dumps(claims)[:-1].encode() + f', "{member}": {json.dumps(value)}}}'.encode()


def _jwe(forge: Forge) -> str:
    return ".".join(
        [b64(json.dumps({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": forge.mint.kid}).encode()), *4 * ["AAAA"]]
    )


def _json_serialization(forge: Forge) -> str:
    protected, payload, signature = forge.good.split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": signature})


def _foreign_issuer(forge: Forge) -> str:
    # Another issuer that happens to use the same kid, with a key of its own.
    return compact(forge.header, {**forge.claims, "iss": "https://other.test"}, rsa("foreign"))


SIGNATURES = (
    Attack("claims altered after signing", (1,), lambda f: _flip(f.good, 1, 20), UntrustedToken),
    Attack("header altered after signing", (1,), lambda f: compact({**f.header, "typ": "application/at+jwt"}, f.claims,
           lambda _: f.sign(f.good.rpartition(".")[0].encode())), UntrustedToken),
    Attack("signature altered", (1,), lambda f: _flip(f.good, 2, 5), UntrustedToken),
    Attack("signature of another token", (1,), lambda f: f.good.rpartition(".")[0] + "." + f.with_claims(
        sub="usr_mallory").rpartition(".")[2], UntrustedToken),
    Attack("signed by a key that is not the issuer's", (1, 12), lambda f: f.with_header(rsa("mallory")),
           UntrustedToken),
    Attack("signature cut short", (1,), lambda f: f.good[:-2], UntrustedToken),
    Attack("signature empty", (1, 15), lambda f: f.good.rpartition(".")[0] + "."),
    Attack("signature left out", (1, 15), lambda f: f.good.rpartition(".")[0]),
)  # fmt: skip

ALGORITHMS = tuple(
    Attack(f"alg {alg}, {how}", (2,), lambda f, alg=alg, sign=sign: f.with_header(sign(f), alg=alg), refusal)
    for alg, how, sign, refusal in (
        ("none", "unsigned", lambda f: unsigned, MalformedToken),
        ("none", "with any signature", lambda f: f.sign, UntrustedToken),
        ("None", "with any signature", lambda f: f.sign, UntrustedToken),
        ("noNE", "with any signature", lambda f: f.sign, UntrustedToken),
        ("", "with any signature", lambda f: f.sign, UntrustedToken),
        ("HS256", "with the public key in PEM as its secret (CVE-2022-29217)",
         lambda f: hmac_with(public_pem(rsa_key(f.mint.kid))), UntrustedToken),
        ("HS256", "with the public key as JWK as its secret (CVE-2026-48526)",
         lambda f: hmac_with(json.dumps(jwk_of(rsa_key(f.mint.kid), f.mint.kid)).encode()), UntrustedToken),
        ("HS256", "with an empty secret", lambda f: hmac_with(b""), UntrustedToken),
        ("RS512", "by the right key", lambda f: rsa(f.mint.kid, hashes.SHA512()), UntrustedToken),
        ("PS256", "by the right key", lambda f: pss(f.mint.kid), UntrustedToken),
        ("RS256", "but signed as PS256 (CVE-2026-48523)", lambda f: pss(f.mint.kid), UntrustedToken),
        ("RS256", "but signed as RS512 (CVE-2026-48523)", lambda f: rsa(f.mint.kid, hashes.SHA512()), UntrustedToken),
        ("rs256", "in small letters", lambda f: f.sign, UntrustedToken),
        ("RS256 ", "with a space", lambda f: f.sign, UntrustedToken),
        (["RS256"], "as a list", lambda f: f.sign, UntrustedToken),
        (None, "missing", lambda f: f.sign, UntrustedToken),
    )
)  # fmt: skip

HEADERS = (
    *(
        Attack(f"header {name} {value!r}", rows, lambda f, name=name, value=value: f.with_header(**{name: value}),
               UntrustedToken)
        for name, value, rows in (
            ("jku", "http://127.0.0.1:1/keys", (3,)),
            ("x5u", "http://127.0.0.1:1/chain", (3,)),
            ("x5c", ["AAAA"], (3,)),
            ("x5t", "AAAA", (3,)),
            ("zip", "DEF", (16,)),
            ("enc", "A256GCM", (9, 16)),
            ("p2s", "AAAA", (16,)),
            ("p2c", 10_000_000, (16,)),
            ("crit", ["exp"], (17,)),
            ("crit", ["unheard-of"], (17,)),
            ("crit", [], (17,)),
            ("b64", False, (17,)),
            ("cty", "JWT", (14,)),
            ("anything", "else", (14,)),
        )
    ),
    Attack("header jwk with the key that signed it", (3,), lambda f: f.with_header(
        rsa("mallory"), jwk=jwk_of(rsa_key("mallory"), "mallory")), UntrustedToken),
    Attack("header jwk alone, no kid", (3,), lambda f: f.with_header(
        rsa("mallory"), kid=None, jwk=jwk_of(rsa_key("mallory"), "mallory")), UntrustedToken),
    Attack("b64 false and critical, payload not encoded", (17, 15), lambda f: f.with_header(b64=False, crit=["b64"]),
           UntrustedToken),
    Attack("PBES2", (16,), lambda f: f.with_header(alg="PBES2-HS256+A128KW", p2c=10_000_000, p2s="AAAA"),
           UntrustedToken),
    Attack("crit that is unknown (CVE-2026-32597)", (17,), lambda f: f.with_header(crit=["x"], x=1), UntrustedToken),
    Attack("five segments: an encrypted token", (9,), _jwe),
)  # fmt: skip

KINDS = tuple(
    Attack(f"typ {typ!r}", (5, 14), lambda f, typ=typ: f.with_header(typ=typ), UntrustedToken)
    for typ in ("JWT", "jwt", "id_token+jwt", "logout+jwt", "secevent+jwt", "rt+jwt", "dpop+jwt", "", " at+jwt",
                "at+jwt;v=1", "application/application/at+jwt", 7, None)
)  # fmt: skip

KEY_IDS = (
    *(
        Attack(f"kid {name}", (13,), lambda f, kid=kid: f.with_header(kid=kid), refusal)
        for name, kid, refusal in (
            ("that nobody knows", "unheard-of", UnknownKey),
            ("as SQL", "' OR 1=1 --", UnknownKey),
            ("as a path", "../../../../dev/null", UnknownKey),
            ("as LDAP", "*)(uid=*))(|(uid=*", UnknownKey),
            ("as a URL", "http://127.0.0.1:1/", UnknownKey),
            ("as a template", "{{7*7}}", UnknownKey),
            ("with a null byte", "access-1\x00", MalformedToken),
            ("that is no ASCII", "access-1\u202e", MalformedToken),
            ("of 10 kB", "k" * 10_000, MalformedToken),
            ("of 129 characters", "k" * 129, MalformedToken),
            ("empty", "", MalformedToken),
            ("as a number", 1, MalformedToken),
            ("as an object", {"$ne": ""}, MalformedToken),
            ("missing", None, UntrustedToken),
        )
    ),
)

SHAPES = (
    Attack("empty segments", (15,), lambda f: ".."),
    Attack("one segment", (15,), lambda f: "nonsense"),
    Attack("four segments", (15,), lambda f: f.good + ".AAAA"),
    Attack("JSON serialization", (15,), _json_serialization),
    Attack("padded base64", (15,), lambda f: f.good + "="),
    Attack("base64 with + and /", (15,), lambda f: f.good.rpartition(".")[0] + ".ab+/"),
    Attack("a space inside", (15,), lambda f: f.good.replace(".", ". ", 1)),
    Attack("a tab inside", (15,), lambda f: f.good.replace(".", ".\t", 1), wires=("verifier", "http")),
    Attack("a line break inside", (15,), lambda f: f.good.replace(".", ".\n", 1), wires=VERIFIER),
    Attack("a line break at its end", (15,), lambda f: f.good + "\n", wires=VERIFIER),
    Attack("letters that only look like ASCII", (15,), lambda f: f.good.replace("e", "\u0435", 1), wires=VERIFIER),
    Attack("digits of another script", (15,), lambda f: f.good[:-1] + "\u0663", wires=VERIFIER),
    Attack("another spelling of the same signature", (15,), lambda f: _other_spelling(f.good)),
    Attack("more than 8 KiB", (15,), lambda f: f.with_claims(client_id="c" * 8000)),
    Attack("5 MB (CVE-2026-48525)", (15,), lambda f: f.good + "A" * 5_000_000, wires=VERIFIER),
    Attack("quoted", (15,), lambda f: f'"{f.good}"'),
    Attack("two tokens", (15,), lambda f: f"{f.good},{f.good}"),
)  # fmt: skip


def _other_spelling(token: str) -> str:
    # 256 bytes end in one character of which only four bits count: change the others.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(token.rpartition(".")[2]) % 4 == 2
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


PAYLOADS = (
    Attack("claims in UTF-16", (11,), lambda f: f.with_payload(json.dumps(f.claims).encode("utf-16"))),
    Attack("claims in UTF-32", (11,), lambda f: f.with_payload(json.dumps(f.claims).encode("utf-32-le"))),
    Attack("claims with a byte order mark", (11,), lambda f: f.with_payload(
        b"\xef\xbb\xbf" + json.dumps(f.claims).encode())),
    Attack("claims in Latin-1", (11,), lambda f: f.with_payload(json.dumps(
        {**f.claims, "name": "\xe9"}, ensure_ascii=False).encode("latin-1"))),
    Attack("header in UTF-16", (11,), lambda f: compact(json.dumps(f.header).encode("utf-16"), f.claims, f.sign)),
    Attack("claims that are a list", (11,), lambda f: f.with_payload(b"[]")),
    Attack("claims that are no JSON", (11,), lambda f: f.with_payload(b"{'iss': 1}")),
    Attack("claims with NaN", (11,), lambda f: f.with_payload(json.dumps({**f.claims, "x": float("nan")}).encode())),
    Attack("claims nested without end", (11,), lambda f: f.with_payload(b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}")),
    Attack("a claim twice", (18,), lambda f: f.with_payload(_twice(f.claims, "sub", "usr_mallory"))),
    Attack("a claim twice, the same", (18,), lambda f: f.with_payload(_twice(f.claims, "sub", f.claims["sub"]))),
    Attack("a nested member twice", (18,), lambda f: f.with_payload(
        json.dumps(f.claims)[:-1].encode() + b', "act": {"sub": "a", "sub": "b"}}')),
    Attack("alg twice", (18, 2), lambda f: compact(_twice(f.header, "alg", "none"), f.claims, f.sign)),
    Attack("kid twice", (18,), lambda f: compact(_twice(f.header, "kid", f.mint.kid), f.claims, f.sign)),
)  # fmt: skip

REQUIRED = ("iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "cgen", "gid", "gen", "auth_time")

CLAIMS = (
    *(
        Attack(f"no {name}", (20, 4) if name == "exp" else (20,), lambda f, name=name: f.with_claims(**{name: None}),
               UntrustedToken if name == "aud" else MalformedToken)
        for name in REQUIRED
    ),
    *(
        Attack(f"{name} as {how}", (20,), lambda f, name=name, value=value: f.with_payload(
            json.dumps({**f.claims, name: value}).encode()))
        for name in ("exp", "iat", "auth_time", "gen", "cgen")
        for how, value in (("text", "1"), ("a float", 1.5e9), ("true", True), ("a list", [1]), ("negative", -1))
    ),
    *(
        Attack(f"{name} as {how}", (20,), lambda f, name=name, value=value: f.with_payload(
            json.dumps({**f.claims, name: value}).encode()), UntrustedToken if name == "aud" else MalformedToken)
        for name in ("iss", "sub", "aud", "client_id", "jti", "gid", "sid", "scope")
        for how, value in (("a number", 1), ("an object", {}), ("text with a line break", "a\nb"))
    ),
    Attack("an exp too long to be a number", (4, 20), lambda f: f.with_payload(
        json.dumps(f.claims).replace(str(f.claims["exp"]), "9" * 5000).encode())),
    Attack("expired", (4,), lambda f: f.with_claims(iat=f.claims["iat"] - 1000, exp=f.claims["iat"] - 6), ExpiredToken),
    Attack("issued in the future", (4,), lambda f: f.with_claims(
        iat=f.claims["iat"] + 60, exp=f.claims["iat"] + 900), ExpiredToken),
    Attack("not yet valid", (4,), lambda f: f.with_claims(nbf=f.claims["iat"] + 60), ExpiredToken),
    Attack("nbf as text", (4,), lambda f: f.with_claims(nbf="0")),
    Attack("expires before it is issued", (4,), lambda f: f.with_claims(exp=f.claims["iat"] - 1)),
    Attack("lives longer than the policy allows", (4,), lambda f: f.with_claims(exp=f.claims["iat"] + 3602),
           UntrustedToken),
    Attack("for another service", (6,), lambda f: f.with_claims(aud="urn:rescind:session"), UntrustedToken),
    Attack("for two services", (6,), lambda f: f.with_claims(aud=[f.audience, "urn:rescind:session"]),
           UntrustedToken),
    Attack("for this service, as a list", (6,), lambda f: f.with_claims(aud=[f.audience]), UntrustedToken),
    Attack("for a service whose name begins alike", (6,), lambda f: f.with_claims(aud=f.audience + "2"),
           UntrustedToken),
    Attack("for this service, in other letters", (6,), lambda f: f.with_claims(aud=f.audience.upper()), UntrustedToken),
    Attack("of another issuer", (12,), lambda f: f.with_claims(iss="https://other.test"), UntrustedToken),
    Attack("of another issuer, with its own key", (12,), _foreign_issuer, UntrustedToken),
    Attack("of an issuer that ours contains (CVE-2024-53861)", (12,), lambda f: f.with_claims(iss="https://issuer"),
           UntrustedToken),
    Attack("of the issuer with a slash", (12,), lambda f: f.with_claims(iss=f.mint.issuer + "/"), UntrustedToken),
    Attack("of the issuer in other letters", (12,), lambda f: f.with_claims(iss=f.mint.issuer.upper()), UntrustedToken),
    Attack("a client that says it is a person", (65,), lambda f: f.with_claims(sub="backoffice"), UntrustedToken),
    Attack("a service's token with a person's session", (65,), lambda f: f.with_claims(
        sub="svc_mobile", gid=None, gen=None, auth_time=None), UntrustedToken),
    Attack("a service that speaks for another client", (65,), lambda f: f.with_claims(
        sub="svc_backoffice", gid=None, gen=None, auth_time=None, sid=None), UntrustedToken),
    Attack("an ID token", (5, 14), lambda f: f.mint.sign(
        {name: f.claims[name] for name in ("iss", "sub", "iat", "exp", "auth_time", "sid")} | {"aud": "mobile"},
        headers={"typ": "JWT"}), UntrustedToken),
    Attack("a message of the revocation log", (14,), lambda f: compact(
        {"alg": "RS256", "typ": "secevent+jwt", "kid": f.mint.log_kid}, f.claims, rsa(f.mint.log_kid)), UntrustedToken),
    Attack("signed by the key of the revocation log", (14, 12), lambda f: f.with_header(
        rsa(f.mint.log_kid), kid=f.mint.log_kid), UnknownKey),
    Attack("an opaque refresh token", (5, 14), lambda f: "rt_" + "a" * 43),
)  # fmt: skip

TAKEN_BACK = Attack("taken back", (21,), lambda f: f.with_claims(jti="taken-back"), RevokedToken)

ATTACKS: tuple[Attack, ...] = (
    *SIGNATURES, *ALGORITHMS, *HEADERS, *KINDS, *KEY_IDS, *SHAPES, *PAYLOADS, *CLAIMS, TAKEN_BACK
)  # fmt: skip
