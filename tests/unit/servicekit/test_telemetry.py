"""No secret in the log, whoever logs it and however; the trace of the caller goes on."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from servicekit.telemetry import outgoing, redact_text, request_context, request_id, set_up_logging

JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ1c3JfMSJ9.c2lnbmF0dXJl-_x"
SECRETS = [
    JWT,
    JWT.rpartition(".")[0] + ".",
    f"Bearer {JWT}",
    "bearer opaque-refresh-0123456789",
    "Basic cGFydG5lcjpwYXJ0bmVyLXNlY3JldA==",
    "alice@example.com",
    "login_hint=alice%40example.com",
    "grant_type=refresh_token&refresh_token=opaque-0123456789&x=1",
    "code=abcdefghijk&state=1",
    '{"password": "correct-horse-battery-staple"}',
    "{'client_secret': 'partner-secret'}",
    "code_verifier=abcdefghijklmno",
    "Cookie: __Host-sso=abcdefghijkl; other=1",
    "set-cookie: __Host-sso=abcdefghijkl; Path=/",
    "redis://user:partner-secret@redis:6379/0",
    "postgresql+psycopg://identity:correct-horse@db/identity",
]
LEAKS = [
    "eyJ",
    "c2lnbmF0dXJl",
    "opaque-",
    "cGFydG5lcjp",
    "alice",
    "abcdefghijk",
    "correct-horse",
    "partner-secret",
    "hunter2",
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process writes, in place of standard output."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    set_up_logging("orders", out=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def _lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def _leaks(text: str) -> list[str]:
    return [leak for leak in LEAKS if leak in text]


@pytest.mark.requirement(81)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_blacked_out_wherever_it_is_written(log: io.StringIO, secret: str) -> None:
    ours = structlog.get_logger("ours")
    ours.info(f"event {secret}", value=secret, nested={"deep": [secret, {"deeper": secret}]}, raw=secret.encode())
    ours.info("positional %s", secret)
    logging.getLogger("theirs").warning("of another library: %s", secret)
    try:
        raise RuntimeError(f"exception with {secret}")
    except RuntimeError:
        ours.exception("failed")
        logging.getLogger("theirs").exception("failed")
    assert len(_lines(log)) == 5
    assert not _leaks(log.getvalue())


@pytest.mark.requirement(81)
@pytest.mark.parametrize(
    "name",
    ["authorization", "Cookie", "set_cookie", "password", "new_password", "client_secret", "refresh_token", "token",
     "access_token", "id_token", "code", "code_verifier", "email", "csrf_token", "api_key", "client_assertion"],
)  # fmt: skip
def test_what_has_a_secrets_name_is_blacked_out_whatever_it_looks_like(log: io.StringIO, name: str) -> None:
    structlog.get_logger("ours").info(
        "event", **{name: "hunter2"}, headers={name: "hunter2"}, pairs=[{name: ["hunter2"]}]
    )
    (line,) = _lines(log)
    assert line[name] == "[redacted]"
    assert not _leaks(log.getvalue())


def test_what_is_no_secret_stays(log: io.StringIO) -> None:
    said = {"status_code": 503, "grpc_code": "UNAVAILABLE", "reason": "TOKEN_REVOKED", "route": "/v1/orders/{order_id}",
            "order": "ord_AAAAAAAAAAAAAAAAAAAAAA", "ms": 1.5, "ok": True, "none": None}  # fmt: skip
    structlog.get_logger("ours").warning("revoked token refused", **said)
    (line,) = _lines(log)
    assert {name: line[name] for name in said} == said
    assert line["event"] == "revoked token refused"
    assert (line["service"], line["level"]) == ("orders", "warning")
    assert line["timestamp"].endswith("Z")


def test_a_log_line_is_one_line_and_bounded(log: io.StringIO) -> None:
    structlog.get_logger("ours").info('forged\n{"event": "login"}', much="x" * 100_000)
    (line,) = _lines(log)
    assert len(line["much"]) < 10_000


def test_a_secret_across_the_cut_is_gone_as_a_whole() -> None:
    for padding in range(8100, 8200, 7):
        assert not _leaks(redact_text("x " * (padding // 2) + JWT + " tail" * 2000))


def test_lines_carry_the_request_and_the_trace_of_the_caller(log: io.StringIO) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with request_context({"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "chosen-by-caller"}) as id_:
        structlog.get_logger("ours").info("inside")
        logging.getLogger("theirs").warning("inside, too")
        assert outgoing()["traceparent"].split("-")[1] == trace
        assert request_id() == id_ != "chosen-by-caller"
    structlog.get_logger("ours").info("outside")
    first, second, third = _lines(log)
    assert first["request_id"] == second["request_id"] == id_
    assert first["trace_id"] == second["trace_id"] == trace
    assert "request_id" not in third
    assert "trace_id" not in third
    assert request_id() == ""


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 5000])
def test_without_a_usable_trace_a_new_one_begins(traceparent: str) -> None:
    with request_context({"traceparent": traceparent}):
        first = outgoing()["traceparent"]
    with request_context({"traceparent": traceparent}):
        second = outgoing()["traceparent"]
    assert first.split("-")[1] != second.split("-")[1]


def test_redaction_of_long_text_takes_no_time_to_speak_of() -> None:
    """A pattern that backtracks would let a caller stop the process with one header."""
    import time

    pieces = (
        "a",
        "eyJ",
        "-eyJ",
        "eyJaaaa.",
        "a@",
        "a%40",
        "password=",
        "a_",
        "Cookie:",
        "Bearer ",
        "://a:",
        ".",
        " ",
        '"',
    )
    for hostile in (piece * (100_000 // len(piece)) for piece in pieces):
        began = time.perf_counter()
        redact_text(hostile)
        assert time.perf_counter() - began < 0.5
