"""Which address is believed: the connection's, or what our own proxies say, read from the end."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.visitor import LONGEST_USER_AGENT, Visitor, parse_networks, visitor

PROXIES = parse_networks("10.0.0.0/8, fd00::/8")


def address(peer: str, *forwarded_for: str, trusted: str | None = None) -> str:
    networks = PROXIES if trusted is None else parse_networks(trusted)
    return visitor(peer, forwarded_for, "", networks).address


@pytest.mark.requirement(40)
@pytest.mark.parametrize(
    ("peer", "forwarded_for", "believed"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # no proxy of ours: what it writes is nothing
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # what the client wrote is before it
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),  # in a header of its own too
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),  # through two proxies of ours
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, <script>"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], ""),
        ("a-socket", ["198.51.100.1"], ""),
        ("fe80::1%eth0", [], "fe80::1"),
    ],
)
def test_the_address_that_is_believed(peer: str, forwarded_for: list[str], believed: str) -> None:
    assert address(peer, *forwarded_for) == believed


@pytest.mark.requirement(40)
def test_nobody_is_trusted_unless_the_settings_say_so() -> None:
    assert address("127.0.0.1", "198.51.100.1", trusted="") == "127.0.0.1"


@given(st.lists(st.text(max_size=60), max_size=4), st.sampled_from(["10.0.0.1", "203.0.113.9", "::1", ""]))
def test_whatever_the_header_says_the_answer_is_an_address_or_nothing(headers: list[str], peer: str) -> None:
    found = visitor(peer, headers, "", PROXIES)
    assert found.address == "" or ip_address(found.address)
    assert found.network == "" or "/" in found.network
    if peer == "203.0.113.9":
        assert found.address == peer


@pytest.mark.parametrize(
    ("full", "kept"), [("203.0.113.9", "203.0.113.0/24"), ("2001:db8:1:2::3", "2001:db8:1::/48"), ("", "")]
)
def test_what_is_kept_is_coarse(full: str, kept: str) -> None:
    assert Visitor(full).network == kept


@given(st.text(max_size=400))
def test_what_the_browser_calls_itself_is_printable_and_short(text: str) -> None:
    kept = visitor("", (), text, ()).user_agent
    assert kept.isprintable()
    assert len(kept) <= LONGEST_USER_AGENT


def test_a_network_that_is_none() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_networks("10.0.0.0/8, nonsense")
