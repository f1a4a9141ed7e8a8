"""What all tests share: what they may need (support.requirements), containers, servers, and worlds of session."""

import pytest

from support.requirements import need

pytest_plugins = ["support.containers", "support.redis_servers", "support.session_fixtures"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.docker`, `browser`, `node`: skipped, or failed, when the machine has no such thing."""
    for requirement in ("docker", "browser", "node"):
        if item.get_closest_marker(requirement) is not None:
            need(requirement)
