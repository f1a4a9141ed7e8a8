"""A token taken apart: whatever it says is shown, and nothing of it is done."""

import base64
import json

import pytest
from rich.console import Console

from console.reading import EXPLAINED, in_words, read
from console.showing import token


@pytest.mark.parametrize("said", ["a\x1b]0;pwned\x07\x1b[2Jb", "\x9b2J", "\u202egood", "\ud800", "a\r\nb", "\x7f"])
def test_nothing_that_a_token_says_reaches_the_terminal_but_what_can_be_seen(said: str) -> None:
    def segment(members: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")

    reading = read(f"{segment({'alg': said})}.{segment({'sub': said, said: 1, 'scope': [said]})}.c2ln")
    out = Console(width=200, color_system=None, force_terminal=True)
    with out.capture() as captured:
        token(out, reading)
    shown = captured.get()
    assert all(one.isprintable() or one == "\n" for one in shown), shown
    assert "sub" in shown
    shown.encode()


def test_what_can_be_seen_is_left_alone() -> None:
    assert in_words("sub", "Zoë 茶 \\u0041") == "Zoë 茶 \\u0041"
    assert in_words("exp", 0).startswith("0  (1970-01-01")
    assert set(EXPLAINED) >= {"jti", "sid"}
