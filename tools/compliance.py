"""Writes docs/compliance.md: each security requirement, and the tests that prove it.

The tests say so themselves, by `@pytest.mark.requirement(row)`; the rows are in tools/requirements.tsv. `--check`
writes nothing and fails when the table is not what the marks say. Tests are collected, not run: that they pass is what
`make test` is for, and CI runs all of them.
"""

import argparse
import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "compliance.md"
ROWS = ROOT / "tools" / "requirements.tsv"
HEAD = """\
# Security requirements and the tests that prove them

Made by `python tools/compliance.py` from the marks on the tests; `make check` sees that it is current. A row with a
test is proven as far as the services it names are built; one without is *open*. The tests are listed here, not run:
`make test` runs them, and CI fails when one of them does not pass. Sources: OWASP ASVS 5.0; RFC 9700 and the
Browser-Based Apps BCP (BBA); RFC 8725 and the draft that succeeds it (8725bis); the RFCs by their number. Where:
I identity, S session, O orders, N notifications, V `libs/rescind`, \\* all.

{proven} of {rows} rows have a test.

| # | requirement | source | where | tests |
|--:|---|---|---|---|
"""


class Marks:
    """A plug-in that notes which test proves which row."""

    def __init__(self) -> None:
        self.tests: defaultdict[int, set[str]] = defaultdict(set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Reads the marks of everything that was collected."""
        for item in session.items:
            for mark in item.iter_markers("requirement"):
                for row in mark.args:
                    self.tests[row].add(item.nodeid.partition("[")[0])


def collected() -> Mapping[int, set[str]]:
    """The tests of each row.

    Raises:
        SystemExit: the tests could not be collected.
    """
    marks, output = Marks(), io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"], plugins=[marks])
    if code != pytest.ExitCode.OK:
        sys.stderr.write(output.getvalue())
        raise SystemExit("the tests could not be collected")
    return marks.tests


def table(tests: Mapping[int, set[str]]) -> str:
    """The page.

    Raises:
        SystemExit: a test proves a row that there is not.
    """
    rows = [line.split("\t") for line in ROWS.read_text().splitlines()]
    if unknown := sorted(set(tests) - {int(number) for number, *_ in rows}):
        raise SystemExit(f"no such requirement: {unknown}")
    lines = []
    for number, source, requirement, where in rows:
        proofs = "<br>".join(_link(test) for test in sorted(tests.get(int(number), ()))) or "*open*"
        lines.append(f"| {number} | {requirement} | {source} | {where.replace('*', chr(92) + '*')} | {proofs} |")
    return HEAD.format(proven=len(tests), rows=len(rows)) + "\n".join(lines) + "\n"


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[`{name}`](../{file})"


def main() -> None:
    """Writes the table, or compares it."""
    parser = argparse.ArgumentParser(description="Security requirements and the tests that prove them.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the table is not current")
    check = parser.parse_args().check
    page = table(collected())
    if not check:
        TABLE.write_text(page)
    elif not TABLE.exists() or TABLE.read_text() != page:
        raise SystemExit(f"{TABLE.relative_to(ROOT)} is not current: run python tools/compliance.py")


if __name__ == "__main__":
    main()
