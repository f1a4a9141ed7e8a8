"""The protocol's tests notice when the protocol is broken: each copy of the source with one sabotage fails them.

A sabotage is an exact replacement of a text that occurs once, so it cannot miss. The same tests pass on an untouched
copy, and a plug-in sees to it that the copy is what they import.
"""

import asyncio
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_THE_COPY = 42  # exit code: pytest's own end at 5
GUARD = f"""
import importlib
from pathlib import Path
import pytest

def pytest_sessionstart(session):
    for name in ("rescind", "servicekit", "contracts", "identity", "orders"):
        if not Path(importlib.import_module(name).__file__).is_relative_to({{copy!r}}):
            pytest.exit(f"{{{{name}}}} is not the copy's", returncode={NOT_THE_COPY})
"""

FEED = "tests/unit/rescind/test_feed.py"
FEED_ATTACKS = "tests/unit/rescind/test_feed_attacks.py"
DENYLIST = "tests/unit/rescind/test_denylist.py"
LOG = "tests/contract/test_log_publishing.py"
ISSUING = "tests/integration/test_issuing.py"


@dataclass(frozen=True, slots=True)
class Sabotage:
    """In `file`, `text` becomes `broken`; every one of `caught_by` then fails."""

    name: str
    file: str
    text: str
    broken: str
    caught_by: tuple[str, ...]


SABOTAGES = (
    Sabotage(
        "the publisher pushes no message",
        "services/identity/redis_log.py",
        "redis.call('PUBLISH', ARGV[1], ARGV[i + 1])",
        "redis.call('PUBLISH', ARGV[1], '')",  # nothing at all is noticed too, after three timeouts
        (f"{LOG}::test_what_is_committed_is_appended_and_pushed_as_the_same_bytes[embedded]",),
    ),
    Sabotage(
        "the publisher mends nothing",
        "services/identity/publisher.py",
        "        await self._mend()\n        snapshot, heartbeat",
        "        snapshot, heartbeat",
        (f"{LOG}::test_whatever_was_done_to_the_log_a_tick_mends_it[embedded-_emptied]",),
    ),
    Sabotage(
        "the denylist matches nothing",
        "libs/rescind/denylist.py",
        "    def match(self, ",
        "    def match(self, keys, clean_at=0):\n        return None\n\n    def _unused(self, ",
        (f"{DENYLIST}::test_a_refusal_tells_what_was_revoked_and_why",),
    ),
    Sabotage(
        "a gap does not matter",
        "libs/rescind/ledger.py",
        "        if behind and heartbeat.floor <= heartbeat.head:\n",
        "        if behind and not heartbeat.head:\n",
        (f"{FEED}::test_syncing_until_a_heartbeat_is_satisfied_then_fresh_then_stale",),
    ),
    Sabotage(
        "a heartbeat's hash does not matter",
        "libs/rescind/ledger.py",
        "        if known == heartbeat.hash:\n",
        "        if known is not None:\n",
        (f"{FEED_ATTACKS}::test_another_hash_at_a_position_that_we_hold_is_another_history",),
    ),
    Sabotage(
        "a message may name any hash before it",
        "libs/rescind/chain.py",
        " and known in (None, message.prev)\n",
        "\n",
        (f"{FEED_ATTACKS}::test_a_log_that_was_tampered_with_is_not_believed_and_left_alone[another message]",),
    ),
    Sabotage(
        "what a catch-up ends in does not matter",
        "libs/rescind/chain.py",
        "            and self._chain.hash_at(missing.upto) == missing.hash\n",
        "",
        (f"{FEED_ATTACKS}::test_a_replay_that_was_tampered_with_is_not_believed",),
    ),
    Sabotage(
        "always fresh",
        "libs/rescind/state.py",
        "        if monotonic < self.fresh_until:\n",
        "        if monotonic == monotonic:\n",
        (
            f"{FEED}::test_syncing_until_a_heartbeat_is_satisfied_then_fresh_then_stale",
            f"{FEED}::test_stale_is_computed_when_asked_not_by_a_timer",
        ),
    ),
    Sabotage(
        "a code is not consumed",
        "services/identity/issuing.py",
        "update(codes).where(codes.c.hash == hashed, codes.c.consumed_at.is_(None))",
        "update(codes).where(codes.c.hash == hashed)",
        (f"{ISSUING}::test_a_code_that_comes_twice_ends_what_was_made_from_it[sqlite]",),
    ),
    Sabotage(
        "a refresh token is not consumed",
        "services/identity/issuing.py",
        "update(refresh_tokens).where(refresh_tokens.c.hash == hashed, refresh_tokens.c.consumed_at.is_(None))",
        "update(refresh_tokens).where(refresh_tokens.c.hash == hashed)",
        (f"{ISSUING}::test_a_refresh_token_replayed_ends_the_grant[sqlite-the window is over]",),
    ),
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source and its tests, as they are."""
    for folder in ("deploy", "libs", "services", "tests"):
        # With what Python has compiled: whatever is changed afterwards has another time, and is compiled anew.
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "the_copy.py").write_text(GUARD.format(copy=str(tmp_path)))
    return tmp_path


async def outcome(copy: Path, tests: tuple[str, ...]) -> tuple[int | None, str]:
    """Runs some of the copy's tests on the copy's source: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "the_copy", "-p", "no:cacheprovider"),
        *tests,
        cwd=copy,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([f"{copy}/libs", f"{copy}/services", str(copy)])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 100)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, output.decode(errors="replace")


async def test_an_untouched_copy_passes(copy: Path) -> None:
    tests = tuple(sorted({test for sabotage in SABOTAGES for test in sabotage.caught_by}))
    code, output = await outcome(copy, tests)
    assert code == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= len(tests)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
async def test_a_sabotaged_copy_is_caught(copy: Path, sabotage: Sabotage) -> None:
    file = copy / sabotage.file
    source = file.read_text()
    assert source.count(sabotage.text) == 1
    file.write_text(source.replace(sabotage.text, sabotage.broken))
    code, output = await outcome(copy, sabotage.caught_by)
    assert code == 1, output  # tests failed: not an error on the way to them
    for test in sabotage.caught_by:
        assert f"FAILED {test}" in output, output
