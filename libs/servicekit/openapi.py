"""What every OpenAPI document says of refusals: one shape, RFC 9457, with a stable `reason`."""

from typing import Any

from servicekit.errors import PROBLEM_TYPE

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence for people"},
        "instance": {"type": "string", "description": "The id of the request, for whoever looks into the log"},
        "reason": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$", "description": "Stable, for machines"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def refusal(description: str, **content: Any) -> dict[str, Any]:
    """A response that refuses with a problem; `content` adds other media types."""
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": PROBLEM}, **content}}


# Of every operation. The framework would otherwise promise a 422 that nothing here ever answers.
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": refusal("Refused: the request, or who sent it, is not as it must be"),
    "503": refusal("Not now: something that is needed does not answer. Retry-After says when to ask again"),
    "504": refusal("What is needed did not answer in time; it may have been done all the same"),
}
