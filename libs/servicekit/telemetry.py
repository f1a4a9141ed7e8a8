"""Logs as JSON lines that carry the request's and the trace's id, and no secret.

What `redact` finds by name (authorization, cookie, password, ...) or by shape (a JWT, `Bearer ...`, an e-mail address,
`secret=...`, the password in a URL) is blacked out in every event, in tracebacks, and in what other libraries log.
Redaction is a net below people who take care, not a reason to log a token.

The trace context is W3C's (https://www.w3.org/TR/trace-context/): taken over from the caller, made new where there is
none, passed on with `outgoing()`. The request's id is always our own: a caller cannot choose what the log says.
"""

import contextlib
import logging
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

BLACK = "[redacted]"
_LONGEST_TEXT = 8192  # characters of one logged value
_LONGEST_READ = 65_536  # characters of a value that are looked at; the rest is dropped

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_propagator = TraceContextTextMapPropagator()

_SECRET_NAMES = re.compile(
    r"""^(.*[_-])?(authorization|proxy[_-]authorization|cookies?|set[_-]cookie|passw(or)?d|secret|tokens?|assertion
        |api[_-]?key|private[_-]?key|code|code[_-](verifier|challenge)|e?mail|credentials?|csrf)([_-](hash|new|old))?$""",
    re.IGNORECASE | re.VERBOSE,
)
# Names that end like a secret and are none.
_HARMLESS_NAMES = frozenset({"status_code", "grpc_code", "exit_code", "error_code", "reason_code"})
# None takes more than linear time: a text that a caller chose may come by here.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_=-]*){0,4}"), BLACK),
    (re.compile(r"\b(Bearer|Basic|DPoP)\s+[^\s\"',;\\)\]}]+", re.IGNORECASE), r"\1 " + BLACK),
    (re.compile(r"(?im)\b((?:set-)?cookie['\"]?\s*[:=,]\s*b?['\"]?)[^'\"\r\n]+"), r"\1" + BLACK),
    (
        re.compile(
            r"""(?i)\b((?:[a-z_]+_)?(?:password|passwd|secret|token|assertion|code_verifier|code|cookie|csrf_token)
                ["']?\s*[=:]\s*(?:b|SecretStr\()?)(["']?)(?!\s)[^\s&"',;)}\]]+\2""",
            re.VERBOSE,
        ),
        r"\1" + BLACK,
    ),
    (re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@"), r"\1:" + BLACK + "@"),
    (re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,256}(?:@|%40)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"), BLACK),
)


def redact_text(text: str) -> str:
    """`text` with everything that has the shape of a secret or of an e-mail address blacked out."""
    text = text[:_LONGEST_READ]
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    if len(text) > _LONGEST_TEXT:  # cut afterwards, or half a token might be left; in the middle: tracebacks end well
        text = f"{text[: _LONGEST_TEXT // 2]} [cut] {text[-_LONGEST_TEXT // 2 :]}"
    return text


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: blacks out by name and by shape, at any depth."""
    for name in list(event):
        event[name] = _redacted(name, event[name])
    return event


def _redacted(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name not in _HARMLESS_NAMES and _SECRET_NAMES.match(name):
        return BLACK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {redact_text(str(key)): _redacted(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    return redact_text(repr(value))


def _ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if request_id := _request_id.get():
        event.setdefault("request_id", request_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", format_trace_id(span.trace_id))
    return event


def set_up_logging(service: str, *, level: str = "INFO", out: TextIO | None = None) -> None:
    """Sends everything this process logs, ours and other libraries', to `out` as JSON lines named `service`."""

    def named(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
        _ids,
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=()), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These speak of every request, or at every start: we do so ourselves.
    for chatty in ("uvicorn.access", "uvicorn.error", "alembic", "httpx2", "httpcore2", "asyncio", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def request_id() -> str:
    """The id of the request being served; empty outside of one."""
    return _request_id.get()


@contextlib.contextmanager
def request_context(carrier: Mapping[str, str]) -> Iterator[str]:
    """Within: a new request id (yielded), and the trace that `carrier` (headers, lower case) names, or a new one."""
    context = _propagator.extract(carrier, otel_context.Context())
    if not trace.get_current_span(context).get_span_context().is_valid:
        begun = SpanContext(
            secrets.randbits(128) or 1, secrets.randbits(64) or 1, is_remote=False, trace_flags=TraceFlags(0)
        )
        context = trace.set_span_in_context(NonRecordingSpan(begun), context)
    traced = otel_context.attach(context)
    named = _request_id.set(secrets.token_hex(8))
    try:
        yield _request_id.get()
    finally:
        # A stream that its caller left is closed by the garbage collector, in a context of its own: there is nothing
        # to put back there, and trying would be an error.
        with contextlib.suppress(ValueError):
            _request_id.reset(named)
            otel_context.detach(traced)


def outgoing() -> dict[str, str]:
    """The headers (or gRPC metadata) that carry the current trace to another service."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers
