"""The story as a table: what was refused where, with which reason, after how many milliseconds."""

from collections.abc import Iterable

from rich.table import Table

from devstack.story.scene import Answer, Step


def table(steps: Iterable[Step]) -> Table:
    """A row for each step."""
    shown = Table(title="What was accepted and refused", title_justify="left", header_style="bold")
    shown.add_column("")
    shown.add_column("step")
    shown.add_column("HTTP")
    shown.add_column("gRPC")
    shown.add_column("ms", justify="right")
    shown.add_column("")
    before = ""
    for step in steps:
        if before and step.act != before:
            shown.add_section()
        act, before = (step.act if step.act != before else ""), step.act
        ms = "" if step.ms is None else f"{step.ms:.1f}"
        shown.add_row(act, step.what, _cell(step.http), _cell(step.grpc), ms, step.note)
    return shown


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return ""
    if answer.accepted:
        return f"[green]{answer.status}[/green]"
    colour = "yellow" if answer.status in ("503", "UNAVAILABLE") else "red"
    return f"[{colour}]{answer.status}[/{colour}] {answer.reason}"
