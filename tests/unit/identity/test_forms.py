"""What forms carry: signed, bound to a browser and a purpose, readable by every replica and through a key rotation."""

from dataclasses import replace

import pytest

from identity.forms import Flow, Forms

OLD, NEW, FOREIGN = b"o" * 32, b"n" * 32, b"f" * 32
FLOW = Flow("client_id=mobile&state=ü%20x", 1_000_000)


def test_a_csrf_token_is_for_one_form_in_one_browser() -> None:
    forms = Forms([NEW])
    token = forms.csrf("logout", "cookie")
    assert forms.is_csrf(token, "logout", "cookie")
    assert not forms.is_csrf(token, "password", "cookie")
    assert not forms.is_csrf(token, "logout", "another")
    assert not forms.is_csrf(token[:-1], "logout", "cookie")
    assert not Forms([FOREIGN]).is_csrf(token, "logout", "cookie")


@pytest.mark.parametrize("cookie", [None, ""])
def test_without_a_cookie_nothing_is_ours(cookie: str | None) -> None:
    forms = Forms([NEW])
    assert not forms.is_csrf(forms.csrf("login", ""), "login", cookie)


def test_purpose_and_cookie_do_not_run_into_each_other() -> None:
    forms = Forms([NEW])
    assert forms.csrf("a", "b\0c") != forms.csrf("a\0b", "d")
    assert forms.csrf("ab", "c") != forms.csrf("a", "bc")


def test_a_flow_comes_back_as_it_was_for_half_an_hour() -> None:
    forms = Forms([NEW])
    packed = forms.pack(FLOW)
    assert forms.unpack(packed, FLOW.begun_at) == FLOW
    assert forms.unpack(packed, FLOW.begun_at + 1_799_999) == FLOW
    assert forms.unpack(packed, FLOW.begun_at + 1_800_000) is None


def test_a_flow_of_anothers_making_is_none() -> None:
    forms = Forms([NEW])
    packed, other = forms.pack(FLOW), forms.pack(replace(FLOW, query="client_id=partner"))
    swapped = other.partition(".")[0] + "." + packed.partition(".")[2]
    for forged in ("", ".", "x.y", "é.é", packed[:-2], packed + "x", swapped, Forms([FOREIGN]).pack(FLOW)):
        assert forms.unpack(forged, FLOW.begun_at) is None


def test_a_form_given_out_before_a_key_rotation_is_accepted_after_it() -> None:
    before, after = Forms([OLD]), Forms([NEW, OLD])
    assert after.is_csrf(before.csrf("login", "cookie"), "login", "cookie")
    assert after.unpack(before.pack(FLOW), FLOW.begun_at) == FLOW
    assert before.unpack(after.pack(FLOW), FLOW.begun_at) is None
