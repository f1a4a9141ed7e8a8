"""Conditional requests over HTTP (RFC 9110 section 13): what a caller has seen, and whether it is still so."""

import re
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, Request

from orders.service import ANY_ETAG
from servicekit.errors import Kind, ServiceError

# A list of entity-tags (section 8.8.3). A weak one is let in, and never equal to ours, which are strong.
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t]*{_TAG}(?:[ \t]*,[ \t]*{_TAG})*[ \t]*")
_LONGEST = 1000  # characters


def _if_match(request: Request) -> Collection[str]:
    """The etags of which one must still hold. Without the header, or with `*`, any does: what does not exist is
    refused anyway.
    """
    return _tags(request, "if-match")


def _if_none_match(request: Request) -> Collection[str]:
    """The etags that the caller holds already."""
    return [tag.removeprefix("W/") for tag in _tags(request, "if-none-match")]  # weak comparison (section 13.1.2)


def _tags(request: Request, header: str) -> Collection[str]:
    text = ",".join(request.headers.getlist(header))
    if not text or text.strip() == "*":
        return ANY_ETAG
    if len(text) > _LONGEST or not _TAGS.fullmatch(text):
        reason = header.upper().replace("-", "_") + "_INVALID"
        raise ServiceError(Kind.INVALID, reason, 'Send etags as they were given to you, in quotes: "1".')
    return re.findall(_TAG, text)


IfMatch = Annotated[Collection[str], Depends(_if_match)]
IfNoneMatch = Annotated[Collection[str], Depends(_if_none_match)]

# For the API's own description: the dependencies read the headers themselves, for the sake of repeated ones.
IF_MATCH: dict[str, Any] = {
    "parameters": [
        {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}, "description": "An etag"}
    ]
}
