"""The bench still runs, every section of it: too small to mean anything, but whole."""

import asyncio
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


async def _bench(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode(errors="replace")


async def test_every_section_runs_and_the_page_has_a_row_for_each_promise(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, said = await _bench("--tiny", "--page", str(page))
    assert code == 0, said
    written = page.read_text()
    rows = [line for line in written.splitlines() if re.search(r"\| (met|missed) \|$", line)]
    acknowledged = (
        "acknowledged → refused, 2 processes, spinning",
        "acknowledged → stream ended, 12 streams",
        "acknowledged → stream ended by a revoked person",
    )
    for promise in ("verify, cold", "entries held", "by tracemalloc", *acknowledged):
        assert any(promise in row for row in rows), promise
    asked = ("Redis GET", "HTTP introspection", "WAIT_APPLIED")
    services = ("outbox → stream → inbox, 50 events", "GET /api/orders through session", "beside 2 readers who stall")
    for figure in ("joserfc", *asked, *services, "FRESH from Redis", "FRESH by Replay"):
        assert figure in written
    assert str(ROOT) not in written
    assert not re.search(r"/(home|tmp|usr|var)/", written)


async def test_a_section_that_is_not_there_is_refused_in_one_line() -> None:
    code, said = await _bench("speed")
    assert (code, said.strip().count("\n")) == (2, 0)
    assert "no section speed" in said


async def test_figures_that_mean_nothing_do_not_replace_the_page() -> None:
    before = PAGE.read_bytes() if PAGE.exists() else None
    code, said = await _bench("--tiny", "verify", "memory")
    assert (code, "written" in said) == (0, False), said
    assert (PAGE.read_bytes() if PAGE.exists() else None) == before
