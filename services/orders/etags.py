"""Conditional requests over HTTP (RFC 9110 section 13): what a caller has seen, and whether it is still so."""

import re
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, Request

from orders.service import ANY, Precondition
from servicekit.errors import Kind, ServiceError

# A list of entity-tags (section 8.8.3). A weak one is let in, and never equal to ours, which are strong.
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t]*{_TAG}(?:[ \t]*,[ \t]*{_TAG})*[ \t]*")
_LONGEST = 1000  # characters


def _only_if(request: Request) -> Precondition:
    if_match, if_none_match = _tags(request, "if-match"), _tags(request, "if-none-match") or ()
    # The first is compared strongly, the second weakly (sections 13.1.1 and 13.1.2).
    return Precondition(if_match, [tag.removeprefix("W/") for tag in if_none_match])


def _tags(request: Request, header: str) -> Collection[str] | None:
    text = ",".join(request.headers.getlist(header)).strip()
    if not text:
        return None
    if text == ANY:
        return [ANY]
    if len(text) > _LONGEST or not _TAGS.fullmatch(text):
        reason = header.upper().replace("-", "_") + "_INVALID"
        raise ServiceError(Kind.INVALID, reason, 'Send etags as they were given to you, in quotes: "1".')
    return re.findall(_TAG, text)


OnlyIf = Annotated[Precondition, Depends(_only_if)]

# For the API's own description: the dependency reads the headers itself, for the sake of repeated ones.
CONDITIONAL: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": "Etags, or *"}
        for name in ("If-Match", "If-None-Match")
    ]
}
