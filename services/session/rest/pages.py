"""/ and /static: the web app's files. Nothing in them is anybody's; whoever is signed in is asked for by script."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from servicekit.errors import Kind, ServiceError
from session.rest.protection import SameOrigin

# Looked at again at each visit: there is no build step that would put a hash into their names.
_CACHE = {"cache-control": "no-cache"}


class Files(StaticFiles):
    """The files below a folder, with their own caching."""

    async def get_response(self, path: str, scope: object) -> Response:
        """One file; whatever leads out of the folder is not found."""
        response = await super().get_response(path, scope)  # type: ignore[arg-type]  # starlette's own alias
        response.headers.update(_CACHE)
        return response


def router(folder: Path, origin: str, same_origin: SameOrigin) -> APIRouter:
    """The first page."""
    routes = APIRouter(tags=["pages"])
    page = folder / "index.html"

    @routes.get("/", include_in_schema=False)
    async def first(request: Request) -> Response:
        # Cookies are for one name: who comes by another (127.0.0.1) is sent on to it.
        if not same_origin.is_home(request):
            return RedirectResponse(f"{origin}/", 307)
        if not page.is_file():
            raise ServiceError(Kind.NOT_FOUND, "PAGE_NOT_FOUND", "The web app's files are not here.")
        return FileResponse(page, headers=_CACHE)

    return routes
