"""What all tests share: what they may need (support.requirements), containers, servers, and worlds of session."""

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from support.requirements import need

pytest_plugins = ["support.containers", "support.redis_servers", "support.session_fixtures"]

# `make test` runs two workers. Tests that start whole systems of processes go one after another on one of them, from
# the beginning; everything else, a file at a time, on the other, and at the end what needs a browser or Node.
TOGETHER = {"system": 0, "browser": 2, "peers": 2}
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which they begin."""
    items.sort(key=lambda item: TOGETHER.get(_folder_of(item.path.relative_to(_HERE.parent).as_posix()), 1))


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """What stays together: a folder of `TOGETHER`, or a file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _folder_of(file) if _folder_of(file) in TOGETHER else file


@pytest.hookimpl(optionalhook=True)  # xdist's own marks for groups do nothing with pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Deals the tests out to the workers."""
    return _Scheduling(config, log)


def _folder_of(file: str) -> str:
    """`system` of `tests/system/test_devstack.py`."""
    return file.split("/")[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.docker`, `browser`, `node`: skipped, or failed, when the machine has no such thing."""
    for requirement in ("docker", "browser", "node"):
        if item.get_closest_marker(requirement) is not None:
            need(requirement)
