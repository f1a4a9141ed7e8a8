"""What all tests share: what they may need (support.requirements), containers, servers, and worlds of session."""

from pathlib import Path

import pytest

from support.requirements import need

pytest_plugins = ["support.containers", "support.redis_servers", "support.session_fixtures"]

# Their tests start whole systems of processes. `make test` runs two workers: these go one after another on one of them,
# everything else, a file at a time, on the other.
WHOLE_SYSTEMS = frozenset({"system", "browser", "peers"})
_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says which tests stay together, and puts those that take longest first."""
    for item in items:
        group = "whole systems" if _is_whole_system(item) else item.path.relative_to(_HERE).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_is_whole_system, reverse=True)


def _is_whole_system(item: pytest.Item) -> bool:
    return item.path.relative_to(_HERE).parts[0] in WHOLE_SYSTEMS


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.docker`, `browser`, `node`: skipped, or failed, when the machine has no such thing."""
    for requirement in ("docker", "browser", "node"):
        if item.get_closest_marker(requirement) is not None:
            need(requirement)
