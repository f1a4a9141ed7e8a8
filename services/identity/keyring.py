"""The keys that sign, and their lives: prepared, active, retired, and in an emergency revoked.

Two purposes never share a key: `access` keys sign access and ID tokens, `log` keys sign the revocation log. For each
there is one active key and one prepared spare. A key is in its JWKS from the moment it is prepared until nothing that
it signed can be alive; a revoked key is out at once. Private keys are sealed at rest under their own kid.

A key's status is read from SQL inside the transaction that signs, with the row locked, so nothing is ever signed by a
key after it was retired or revoked. Only key material, which never changes, is remembered.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    RSAPublicNumbers,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import Connection, insert, select, update

from identity.domain import base64url
from identity.sealing import SecretKeys
from identity.storage import exclusive, log_state, shared, signing_keys

Purpose = Literal["access", "log"]
PURPOSES: tuple[Purpose, ...] = ("access", "log")

# Added to the longest life of a token before anything is believed to be dead: clocks, and a request on its way.
MARGIN_MS = 60_000

_KEY_BITS = 2048


class SpareTooYoung(Exception):
    """A planned rotation has to wait `seconds`, until every cache of the JWKS holds the spare."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the spare key may sign in {seconds:.0f} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key pair that is in no database yet. Making one takes some 100 ms: do it before the transaction."""

    kid: str
    private: RSAPrivateKey

    @property
    def jwk(self) -> dict[str, str]:
        return {**_public_members(self.private.public_key()), "kid": self.kid, "use": "sig", "alg": "RS256"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that may sign now, and until the end of the transaction that it was read in."""

    kid: str
    private: RSAPrivateKey

    def sign(self, typ: str, claims: Mapping[str, Any]) -> str:
        """The compact JWS (RFC 7515 section 7.1) of `claims`, its header being exactly `alg`, `typ` and `kid`."""
        header = {"alg": "RS256", "typ": typ, "kid": self.kid}
        signed = f"{_segment(header)}.{_segment(claims)}"
        signature = self.private.sign(signed.encode(), PKCS1v15(), SHA256())
        return f"{signed}.{base64url(signature)}"


class KeyRecord(NamedTuple):
    """A key as an administrator sees it; `created_at` in ms."""

    kid: str
    purpose: Purpose
    status: str
    created_at: int


def generate() -> NewKey:
    """A fresh RSA-2048 key pair, named by its thumbprint (RFC 7638)."""
    private = generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    members = _public_members(private.public_key())
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    return NewKey(kid=base64url(hashlib.sha256(canonical).digest()), private=private)


class KeyRing:
    """Keys in SQL. Safe to use from several threads and replicas at once."""

    def __init__(
        self,
        secret_keys: SecretKeys,
        *,
        now: Callable[[Connection], int],
        leeway: int,
        spare_age: int,
        make_key: Callable[[], NewKey] = generate,
    ) -> None:
        """`leeway` (how long after `exp` a verifier may accept) and `spare_age` in seconds."""
        self._secret_keys = secret_keys
        self._now = now
        self._leeway_ms = leeway * 1000
        self._spare_age_ms = spare_age * 1000
        self.make_key = make_key
        self._private: dict[str, RSAPrivateKey] = {}  # bounded by the number of keys that ever signed here
        self._public: dict[str, RSAPublicKey] = {}

    def found(self, tx: Connection) -> None:
        """Sees to it that each purpose has an active key and a spare. The caller holds the log's counter row locked,
        so of several replicas that start at once one makes the keys.
        """
        now = self._now(tx)
        for purpose in PURPOSES:
            held = {status for _, status, _ in self._line(tx, purpose)}
            for status in ("active", "prepared"):
                if status not in held:
                    self._add(tx, self.make_key(), purpose, status, now)

    def signing_key(self, tx: Connection, purpose: Purpose) -> SigningKey:
        """The active key, which stays active until this transaction has ended.

        Raises:
            RuntimeError: there is none, which founding and rotation rule out.
        """
        query = shared(
            select(signing_keys.c.kid).where(signing_keys.c.purpose == purpose, signing_keys.c.status == "active")
        )
        for _ in range(5):
            # PostgreSQL waits for a rotation that holds the row, finds it retired and returns nothing, because the
            # new active key was not in the statement's snapshot. A new statement sees it.
            kid = tx.execute(query).scalar_one_or_none()
            if kid is not None:
                return SigningKey(kid, self._private_key(tx, kid))
        raise RuntimeError(f"there is no active {purpose} key")

    def accepted_kids(self, tx: Connection, purpose: Purpose = "access") -> frozenset[str]:
        """The keys whose signatures count now: prepared, active, and retired with something alive."""
        return frozenset(jwk["kid"] for jwk in self.jwks(tx, purpose)["keys"])

    def jwks(self, tx: Connection, purpose: Purpose) -> dict[str, list[dict[str, Any]]]:
        """The public JWK Set (RFC 7517 section 5): what `accepted_kids` names, oldest first."""
        dead_before = self._now(tx) - self.horizon(tx)
        query = (
            select(signing_keys.c.public_jwk, signing_keys.c.status, signing_keys.c.retired_at)
            .where(signing_keys.c.purpose == purpose, signing_keys.c.status != "revoked")
            .order_by(signing_keys.c.created_at, signing_keys.c.kid)
        )
        return {
            "keys": [
                jwk for jwk, status, retired_at in tx.execute(query) if status != "retired" or retired_at > dead_before
            ]
        }

    def public_key(self, tx: Connection, purpose: Purpose, kid: str) -> RSAPublicKey | None:
        """The key to check a signature with, if `kid` is accepted now. `kid` is opaque: it is only compared."""
        if kid not in self.accepted_kids(tx, purpose):
            return None
        return self.any_public_key(tx, purpose, kid)

    def any_public_key(self, tx: Connection, purpose: Purpose, kid: str) -> RSAPublicKey | None:
        """The key called `kid`, whatever became of it: to tell what was once ours from what never was."""
        known = self._public.get(f"{purpose}:{kid}")
        if known is None:
            query = select(signing_keys.c.public_jwk).where(
                signing_keys.c.kid == kid, signing_keys.c.purpose == purpose
            )
            jwk = tx.execute(query).scalar_one_or_none()
            if jwk is None:
                return None
            known = RSAPublicNumbers(e=_number(jwk["e"]), n=_number(jwk["n"])).public_key()
            self._public[f"{purpose}:{kid}"] = known
        return known

    def keys(self, tx: Connection, purpose: Purpose = "access") -> list[KeyRecord]:
        """Every key there ever was, oldest first."""
        columns = (signing_keys.c.kid, signing_keys.c.purpose, signing_keys.c.status, signing_keys.c.created_at)
        query = select(*columns).where(signing_keys.c.purpose == purpose).order_by(signing_keys.c.created_at)
        return [KeyRecord(*row) for row in tx.execute(query)]

    def purpose_of(self, tx: Connection, kid: str) -> Purpose | None:
        """What the key called `kid` signs; None if there is no such key."""
        query = select(signing_keys.c.purpose).where(signing_keys.c.kid == kid)
        return cast("Purpose | None", tx.execute(query).scalar_one_or_none())

    def rotate(self, tx: Connection, purpose: Purpose, fresh: NewKey) -> str:
        """Retires the active key, activates the spare, prepares `fresh`; the kid that signs from now on.

        No token is refused for it: the new key has been in the JWKS, and the old one stays there.

        Raises:
            SpareTooYoung: the spare has not been in the JWKS for `spare_age`. (One that was made together with the
                active key is as well known as that one, and needs not wait.)
        """
        line = self._locked_line(tx, purpose)
        now = self._now(tx)
        spare, spare_made = line["prepared"]
        active, active_made = line["active"]
        wait = spare_made + self._spare_age_ms - now
        if wait > 0 and spare_made > active_made:
            raise SpareTooYoung(wait / 1000)
        self._set(tx, active, "retired", retired_at=now)
        self._set(tx, spare, "active", activated_at=now)
        self._add(tx, fresh, purpose, "prepared", now)
        return spare

    def revoke(self, tx: Connection, kid: str, fresh: NewKey) -> bool:
        """Refuses from now on all that `kid` signed. If it was the active key, the spare signs from now on, and
        `fresh` is the new spare. Tells whether there was anything to refuse.
        """
        purpose = self.purpose_of(tx, kid)
        if purpose is None:
            return False
        line = self._locked_line(tx, purpose)
        if kid not in self.accepted_kids(tx, purpose):
            return False
        now = self._now(tx)
        self._set(tx, kid, "revoked", revoked_at=now)
        if kid == line["active"][0]:
            self._set(tx, line["prepared"][0], "active", activated_at=now)
        if kid in (line["active"][0], line["prepared"][0]):
            self._add(tx, fresh, purpose, "prepared", now)
        return True

    def replace(self, tx: Connection, purpose: Purpose, fresh: tuple[NewKey, NewKey]) -> None:
        """Revokes every key of a purpose, known spares too, and goes on with two that nobody has seen."""
        self._locked_line(tx, purpose)
        living = update(signing_keys).where(signing_keys.c.purpose == purpose, signing_keys.c.status != "revoked")
        now = self._now(tx)
        tx.execute(living.values(status="revoked", revoked_at=now))
        self._add(tx, fresh[0], purpose, "active", now)
        self._add(tx, fresh[1], purpose, "prepared", now)

    def seal_anew(self, tx: Connection) -> int:
        """Seals under the newest secret key what an older one sealed; how many private keys that were."""
        changed = 0
        query = exclusive(select(signing_keys.c.kid, signing_keys.c.private_encrypted).order_by(signing_keys.c.kid))
        for kid, sealed in tx.execute(query).all():
            again = self._secret_keys.seal(kid, self._secret_keys.open(kid, sealed))
            if self._secret_keys.key_of(again) != self._secret_keys.key_of(sealed):
                tx.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(private_encrypted=again))
                changed += 1
        return changed

    def horizon(self, tx: Connection) -> int:
        """How many ms after it was signed even the longest token is dead everywhere."""
        return longest_life(tx) + self._leeway_ms + MARGIN_MS

    def _line(self, tx: Connection, purpose: Purpose) -> Iterable[tuple[str, str, int]]:
        query = select(signing_keys.c.kid, signing_keys.c.status, signing_keys.c.created_at).where(
            signing_keys.c.purpose == purpose, signing_keys.c.status.in_(("prepared", "active"))
        )
        return [(kid, status, created_at) for kid, status, created_at in tx.execute(query)]

    def _locked_line(self, tx: Connection, purpose: Purpose) -> dict[str, tuple[str, int]]:
        """The active key and the spare, locked: status -> (kid, created_at)."""
        tx.execute(
            exclusive(
                select(signing_keys.c.kid)
                .where(signing_keys.c.purpose == purpose, signing_keys.c.status != "revoked")
                .order_by(signing_keys.c.kid)
            )
        ).all()
        # Read again: whoever held the locks before us may have moved the line on.
        return {status: (kid, created_at) for kid, status, created_at in self._line(tx, purpose)}

    def _add(self, tx: Connection, key: NewKey, purpose: Purpose, status: str, now: int) -> None:
        der = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        tx.execute(
            insert(signing_keys).values(
                kid=key.kid,
                purpose=purpose,
                status=status,
                public_jwk=key.jwk,
                private_encrypted=self._secret_keys.seal(key.kid, der),
                created_at=now,
                activated_at=now if status == "active" else None,
            )
        )

    def _set(self, tx: Connection, kid: str, status: str, **times: int) -> None:
        tx.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(status=status, **times))

    def _private_key(self, tx: Connection, kid: str) -> RSAPrivateKey:
        key = self._private.get(kid)
        if key is None:
            query = select(signing_keys.c.private_encrypted).where(signing_keys.c.kid == kid)
            der = self._secret_keys.open(kid, tx.execute(query).scalar_one())
            # "Unsafe" for keys of others. This one was made here, and opening the seal has proven that it is that one:
            # validating it again would take 36 ms of a request.
            loaded = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
            key = cast("RSAPrivateKey", loaded)
            self._private[kid] = key
        return key


def longest_life(tx: Connection) -> int:
    """The longest life in ms of any access token ever issued here."""
    return int(tx.execute(select(log_state.c.longest_life)).scalar_one())


def _public_members(public: RSAPublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {"e": _encoded(numbers.e), "kty": "RSA", "n": _encoded(numbers.n)}


def _encoded(number: int) -> str:
    return base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _number(encoded: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(encoded + "=="), "big")


def _segment(value: Mapping[str, Any]) -> str:
    return base64url(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
