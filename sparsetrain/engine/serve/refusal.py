"""An answer that is an error: a status and one line."""

from starlette.responses import JSONResponse

LONGEST = 500  # characters of an answer: it may quote the client


class Refusal(Exception):
    """What a client is told instead of a result.

    Args:
        close: the connection, too: what the client goes on sending is of no use.
    """

    def __init__(self, status: int, message: str, close: bool = False) -> None:
        super().__init__(message)
        self.status, self.close = status, close

    def response(self) -> JSONResponse:
        headers = {"connection": "close"} if self.close else {}
        if self.status == 503:
            headers["retry-after"] = "1"
        line = " ".join(str(self).split())[:LONGEST]
        return JSONResponse({"error": line}, self.status, headers)


class ClientGone(Exception):
    """Who asked has hung up."""
