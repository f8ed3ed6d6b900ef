"""The page at /: it and its parts lie in page-files/, and load nothing from elsewhere."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = {"/": "index.html", "/page.css": "page.css"} | {
    f"/{name}": name for name in ("page.js", "image.js", "protocol.js", "chart.js")
}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def routes() -> list[Route]:
    return [_file(*item) for item in FILES.items()]


def _file(address: str, name: str) -> Route:
    folder = files("sparsetrain.engine.serve").joinpath("page-files")
    content, kind = folder.joinpath(name).read_bytes(), TYPES[name.rpartition(".")[2]]

    async def give(request: Request) -> Response:
        return Response(content, 200, HEADERS, kind)

    return Route(address, give)
