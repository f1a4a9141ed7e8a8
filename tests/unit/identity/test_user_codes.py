"""User codes (RFC 8628 section 6.1): evenly drawn, easily read."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from identity.device_codes import ALPHABET, new_user_code, plain


def test_every_letter_is_equally_likely() -> None:
    drawn = random.Random(8628)
    letters = Counter("".join(plain(new_user_code(drawn.randbytes)) for _ in range(5000)))
    assert set(letters) == set(ALPHABET)
    # 40000 letters, 2000 of each expected: five standard deviations are 218. (The bias of a plain remainder, 2031
    # against 1875, is finer than that: the next test sees to it.)
    assert all(abs(count - 2000) < 218 for count in letters.values())
    assert len(ALPHABET) ** 8 > 2**34


def test_bytes_that_would_favour_some_letters_are_left_out() -> None:
    blocks = iter([bytes([255] * 16), bytes([240] * 12 + [0, 1, 2, 239]), bytes(range(16))])
    assert new_user_code(lambda _: next(blocks)) == "BCDZ-BCDF"


@given(st.text(max_size=100))
def test_whatever_is_typed_becomes_letters(typed: str) -> None:
    assert all("A" <= letter <= "Z" for letter in plain(typed))


def test_a_code_is_the_same_however_it_is_typed() -> None:
    assert {plain(typed) for typed in ("WDJB-MJHT", "wdjbmjht", " WDJB MJHT\n", "w.d.j.b–m.j.h.t")} == {"WDJBMJHT"}
