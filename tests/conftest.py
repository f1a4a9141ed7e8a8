"""What all tests share: what they may need (support.requirements), containers, servers, and worlds of session."""

import gc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from support.requirements import need

pytest_plugins = ["support.containers", "support.redis_servers", "support.session_fixtures"]

# An example that took long was on a busy machine: no test is about that.
hypothesis.settings.register_profile("rescind", hypothesis.settings(), deadline=None)  # else as CI or a person has it
hypothesis.settings.load_profile("rescind")

# `make test` runs three workers, and deals out what takes long first. Tests that start whole systems of processes and
# break them go one after another on one worker, the browser's on another, with one Chromium; everything else is dealt
# out by file, to whoever is free. Of the systems' tests, these break nothing: they may run beside the others.
TOGETHER = ("system", "browser", "peers")
BESIDE = ("test_compose", "test_console", "test_sabotage", "test_bench", "test_wheel")
_ORDER = (*TOGETHER, *BESIDE)
_HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing of what is collected is garbage, and looking for some takes each worker a second, and more later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which they begin."""

    def rank(item: pytest.Item) -> int:
        group = _group_of(item.path.relative_to(_HERE.parent).as_posix())
        return _ORDER.index(group) if group in _ORDER else len(_ORDER)

    items.sort(key=rank)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Keeps a group together."""

    def _split_scope(self, nodeid: str) -> str:
        return _group_of(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)  # xdist's own marks for groups do nothing with pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Deals the tests out to the workers."""
    return _Scheduling(config, log)


def _group_of(file: str) -> str:
    """`system` of `tests/system/test_devstack.py`, `test_wheel` of `tests/system/test_wheel.py`, else the file."""
    folder, name = file.split("/")[1], Path(file).stem
    if name in BESIDE:
        return name
    return folder if folder in TOGETHER else file


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.docker`, `browser`, `node`: skipped, or failed, when the machine has no such thing."""
    for requirement in ("docker", "browser", "node"):
        if item.get_closest_marker(requirement) is not None:
            need(requirement)
