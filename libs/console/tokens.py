"""The tokens that are kept between two calls: one file for each issuer and client, mode 0600, written as a whole."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Kept:
    """What a sign-in gave. `expires_at` is seconds since the epoch."""

    access_token: str = field(repr=False)
    expires_at: float
    refresh_token: str = field(default="", repr=False)
    scope: str = ""


class TokenFile:
    """The tokens of one client at one issuer."""

    def __init__(self, folder: Path, issuer: str, client_id: str) -> None:
        # A digest: an issuer is no file name.
        name = hashlib.sha256(f"{issuer}\n{client_id}".encode()).hexdigest()[:16]
        self.path = folder / f"{name}.json"

    def read(self) -> Kept | None:
        """What is kept; None if there is nothing, or nothing of ours.

        Raises:
            PermissionError: others may read the file, so its tokens may be theirs by now.
        """
        try:
            mode = self.path.stat().st_mode
            kept: Mapping[str, Any] = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if mode & 0o077:
            raise PermissionError(
                f"{self.path} can be read by others: delete it, sign out everywhere, and sign in again"
            )
        try:
            return Kept(**kept)
        except TypeError:
            return None

    def write(self, kept: Kept) -> None:
        """Keeps these instead: the file appears whole, and nobody else could read it at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, part = tempfile.mkstemp(dir=self.path.parent, prefix=".")  # mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(kept), file)
            Path(part).replace(self.path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise

    def forget(self) -> bool:
        """Deletes them; tells whether there were any."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True
