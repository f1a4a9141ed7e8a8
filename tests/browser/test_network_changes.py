"""A test runs again where Chromium says that the machine's network changed, and for no other reason."""

from types import SimpleNamespace
from typing import Any

import pytest

from support.browsers import NetworkChanged, network_unchanged, notice

CHANGED = "net::ERR_NETWORK_CHANGED"


def failed(why: str) -> Any:
    """A request as Playwright shows it."""
    return SimpleNamespace(failure=why, method="GET", url="http://localhost/app.js?code=1")


@pytest.mark.parametrize(("why", "raised"), [(CHANGED, NetworkChanged), ("net::ERR_CONNECTION_RESET", KeyError)])
def test_what_fails_then_is_told_apart(why: str, raised: type[Exception]) -> None:
    notice(failed(why))
    with pytest.raises(raised) as error, network_unchanged():
        raise KeyError("a check")
    assert "code" not in str(error.value)


def test_that_alone_makes_a_test_run_again(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("flaky")
    assert marker.kwargs["only_rerun"] == ["NetworkChanged"]
