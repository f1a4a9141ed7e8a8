"""Passwords: the policy, and answers that tell nothing."""

import asyncio
import threading
import unicodedata

import pytest
from argon2 import PasswordHasher, Type, extract_parameters

from identity import passwords as module
from identity.domain import new_secret
from identity.passwords import LONGEST, SHORTEST, PasswordRefused, Passwords, check_new
from servicekit.errors import Kind, ServiceError

GOOD = "correct-horse-battery-staple"


def entropy(size: int) -> bytes:
    return bytes(range(size))


class CountingHasher(PasswordHasher):
    """A cheap hasher that says how often it was really asked."""

    def __init__(self) -> None:
        super().__init__(memory_cost=8, time_cost=1, parallelism=1)
        self.verified: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
        self.verified.append(str(password))
        return super().verify(hash, password)


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def passwords(hasher: CountingHasher) -> Passwords:
    return Passwords(entropy=entropy, hasher=hasher)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("seven77", "PASSWORD_TOO_SHORT"),
        ("é" * 7, "PASSWORD_TOO_SHORT"),
        (unicodedata.normalize("NFD", "éàüöäñç"), "PASSWORD_TOO_SHORT"),
        ("x1" * 64 + "x", "PASSWORD_TOO_LONG"),
        ("password1", "PASSWORD_TOO_COMMON"),
        ("QWERTYuiop", "PASSWORD_TOO_COMMON"),
        ("zzzzzzzzzzzzz", "PASSWORD_TOO_COMMON"),
        ("lovelovelove", "PASSWORD_TOO_COMMON"),
        ("9876543210", "PASSWORD_TOO_COMMON"),
        ("1234567890", "PASSWORD_TOO_COMMON"),
        ("Elizabeth", "PASSWORD_TOO_COMMON"),
        ("Superman2024!", "PASSWORD_TOO_COMMON"),
        ("monkey2024", "PASSWORD_TOO_COMMON"),
        ("alice.liddell", "PASSWORD_IS_ACCOUNT"),
        ("Alice.Liddell@example.com", "PASSWORD_IS_ACCOUNT"),
    ],
)
def test_a_poor_password_is_refused_with_its_reason(password: str, reason: str) -> None:
    with pytest.raises(PasswordRefused) as refused:
        check_new(password, email="alice.liddell@example.com")
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "password",
    [GOOD, "x1y2z" * 25 + "abc", "  leading and trailing  ", "eight7q8", "пароль-из-слов", "🦊" * 4 + "four"],
)
def test_a_good_password_is_accepted(password: str) -> None:
    check_new(password, email="alice@example.com")


async def test_it_is_kept_as_argon2id_with_owasps_parameters() -> None:
    stored = await Passwords(entropy=entropy).hash(GOOD)
    kept = extract_parameters(stored)
    assert (kept.type, kept.memory_cost, kept.time_cost, kept.parallelism) == (Type.ID, 19 * 1024, 2, 1)
    assert GOOD not in stored


async def test_the_right_one_is_right_and_others_are_not(passwords: Passwords) -> None:
    stored = await passwords.hash(GOOD)
    assert await passwords.verify(stored, GOOD)
    for wrong in (GOOD.upper(), GOOD + " ", GOOD[:-1], "", GOOD + "\0"):
        assert not await passwords.verify(stored, wrong)


async def test_nothing_is_cut_off(passwords: Passwords) -> None:
    longest = "ab" * (LONGEST // 2)
    stored = await passwords.hash(longest)
    assert await passwords.verify(stored, longest)
    assert not await passwords.verify(stored, longest[:-1] + "x")
    assert not await passwords.verify(stored, longest + "x")


async def test_a_composed_and_a_decomposed_letter_are_the_same_and_a_superscript_is_not(passwords: Passwords) -> None:
    stored = await passwords.hash("café au lait²")
    assert await passwords.verify(stored, unicodedata.normalize("NFD", "café au lait²"))
    assert not await passwords.verify(stored, "café au lait2")


@pytest.mark.requirement(77)
async def test_an_unknown_account_costs_one_hash_too_and_is_never_right(
    passwords: Passwords, hasher: CountingHasher
) -> None:
    assert not await passwords.verify(None, GOOD)
    assert hasher.verified == [GOOD]
    # Even who guessed the stand-in's password is not let in: it is nobody's.
    assert not await passwords.verify(None, new_secret(entropy))


async def test_a_hash_that_is_none_is_wrong_and_no_crash(passwords: Passwords) -> None:
    assert not await passwords.verify("not a hash", GOOD)


async def test_a_hash_of_other_parameters_is_outdated(passwords: Passwords) -> None:
    assert not passwords.outdated(passwords.hash_blocking(GOOD))
    assert passwords.outdated(PasswordHasher(memory_cost=16, time_cost=1, parallelism=1).hash(GOOD))


async def test_beyond_the_queue_callers_are_told_to_come_back() -> None:
    gate = threading.Event()

    class Stuck(CountingHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
            gate.wait(10)
            return super().verify(hash, password)

    passwords = Passwords(entropy=entropy, hasher=Stuck(), threads=1, waiting_limit=2)
    stored = passwords.hash_blocking(GOOD)
    guesses = [asyncio.ensure_future(passwords.verify(stored, GOOD)) for _ in range(8)]
    refused, _ = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    assert len(refused) == 5
    gate.set()
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert answers[:3] == [True, True, True]
    assert len(answers[3:]) == 5
    for answer in answers[3:]:
        assert isinstance(answer, ServiceError)
        assert (answer.kind, answer.reason) == (Kind.UNAVAILABLE, "PASSWORD_CHECKS_OVERLOADED")


@pytest.mark.requirement(78)
def test_each_of_the_most_frequent_passwords_is_refused_in_any_case() -> None:
    """ASVS 6.2.4 asks for the 3,000 most frequent that are long enough."""
    common = [password for password in module._COMMON if len(password) >= SHORTEST]
    assert len(common) >= 10_000
    for password in common:
        for typed in (password, password.upper()):
            if typed.casefold() == password:
                with pytest.raises(PasswordRefused, match=r"first that anybody|at most"):
                    check_new(typed)


@pytest.mark.parametrize(
    "password",
    ["another-good-password", "superman and the lamp", "kv8#Lm2q!x", "Grünkohl & Pinkel", "elizabeth the first"],
)
def test_what_nobody_tries_first_is_accepted(password: str) -> None:
    check_new(password)
