"""Identity's database is replaced by a backup, under load: noticed, a new log, and nothing refused comes back."""

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from devstack.flow import Refused
from devstack.story import opened
from support.eventually import eventually
from support.system import CATCH_UP, MAX_STALENESS, Verifier, a_stack

OFFLINE = "openid offline_access orders:read orders:write"
PATIENCE = 15.0  # seconds until a token that is the only one to mind is refused, with much else going on


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment: of the token that the backup had forgotten, and of freshness."""

    at: float
    accepted: bool
    freshness: str
    log: str


async def _watch(verifier: Verifier, token: str, seen: list[Sample]) -> None:
    while True:
        answers, said = await asyncio.gather(verifier.scene.both(token), verifier.says())
        accepted = any(answer.accepted for answer in answers)
        seen.append(Sample(time.monotonic(), accepted, said.get("freshness", ""), said.get("log", "")))
        await asyncio.sleep(0.02)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


@pytest.mark.requirement(21)
async def test_a_restored_backup_begins_a_new_log_and_nothing_refused_is_accepted_again(tmp_path: Path) -> None:
    database, backup = tmp_path / "identity.db", tmp_path / "backup.db"
    async with a_stack(tmp_path) as stack, opened(stack) as scene:
        verifier = Verifier(scene)
        phone = scene.client()
        untouched = await scene.signed_in(scope=OFFLINE)
        browser = scene.browser()
        forgotten = (await scene.signed_in(browser=browser)).access_token
        withdrawn = await scene.signed_in(scope=OFFLINE)
        assert withdrawn.refresh_token is not None
        await stack.fault("kill", "identity")
        _copy(database, backup)
        await stack.fault("start", "identity")

        # What the backup knows nothing of.
        await browser.sign_out()
        await phone.revoke(withdrawn.refresh_token)
        for token in (forgotten, withdrawn.access_token):

            async def refused(token: str = token) -> bool:
                return all(answer.unauthenticated for answer in await scene.both(token))

            await eventually(refused, within=CATCH_UP)
        before = await eventually(verifier.fresh, within=CATCH_UP)

        seen: list[Sample] = []
        watching = asyncio.create_task(_watch(verifier, forgotten, seen))
        await stack.fault("kill", "identity")
        for leftover in ("-wal", "-shm"):
            database.with_name(database.name + leftover).unlink(missing_ok=True)
        _copy(backup, database)
        await stack.fault("start", "identity")
        restored = time.monotonic()

        async def on_another_log() -> bool:
            said = await verifier.fresh()
            return bool(said) and said["log"] != before["log"]

        await eventually(on_another_log, within=PATIENCE)
        await asyncio.sleep(MAX_STALENESS)
        watching.cancel()

        assert len(seen) > 50
        assert not any(sample.accepted for sample in seen)
        late = [sample for sample in seen if sample.at > restored + MAX_STALENESS and sample.freshness == "FRESH"]
        assert {sample.log for sample in late} == {(await verifier.says())["log"]}

        # Everything of before is over, whoever it was issued to; signing in again works.
        for tokens in (untouched, withdrawn):
            for answer in await scene.both(tokens.access_token):
                assert answer.unauthenticated, answer
            with pytest.raises(Refused) as refusal:
                await phone.refresh(tokens)
            assert refusal.value.error == "invalid_grant"
        await scene.accepted((await scene.signed_in()).access_token)
