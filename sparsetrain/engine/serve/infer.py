"""One request to infer, from its head to its answer."""

import asyncio
import logging
import time
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sparsetrain.engine.serve import answer, body
from sparsetrain.engine.serve.network import Arrays
from sparsetrain.engine.serve.queue import Entry
from sparsetrain.engine.serve.refusal import ClientGone, Refusal
from sparsetrain.engine.serve.request import Request, parse
from sparsetrain.engine.serve.service import Served, Service

ASIDE = 2**18  # bytes of JSON
HUNG_UP = 499  # nobody gets this answer: for the metrics
log = logging.getLogger("sparsetrain.serve")


async def infer(http: HttpRequest) -> Response:
    """POST /v2/models/{name}[/versions/{version}]/infer"""
    service: Service = http.app.state.service
    served = service.find(http.path_params["name"], http.path_params.get("version"))
    begun = time.perf_counter()
    with service.running(), service.room.share() as share:
        try:
            response = await _answered(http, service, served, share)
        except Refusal as refusal:
            response = refusal.response()
        except asyncio.CancelledError:  # nothing but the end of the server cancels
            response = Refusal(503, "the server ended before", close=True).response()
        except ClientGone:
            response = Response(status_code=HUNG_UP)
    served.meter.answered(response.status_code, time.perf_counter() - begun)
    return response


async def _answered(
    http: HttpRequest, service: Service, served: Served, share: body.Share
) -> Response:
    _check_open(service, served)
    loop, seconds = asyncio.get_running_loop(), service.options.timeout
    until = loop.time() + seconds
    text = await _body(http, service, share)
    request = await _parsed(text, body.json_bytes(http), service, served)
    if request.timeout is not None:
        until = min(until, loop.time() + request.timeout)
    outputs = await _computed(http, served, request, until)
    return answer.encode(served.signature.name, request, outputs)


def _check_open(service: Service, served: Served) -> None:
    name = served.signature.name
    if service.closing:
        raise Refusal(503, "the server is about to end", close=True)
    if not served.ready:
        raise Refusal(503, f"{name} is not ready: {served.worker.state}")
    if served.worker.queue.full:
        raise _queue_is_full(name)


async def _body(http: HttpRequest, service: Service, share: body.Share) -> bytes:
    reading = body.read(http, service.options.max_body, share)
    try:
        return await asyncio.wait_for(reading, service.options.timeout)
    except asyncio.TimeoutError:
        seconds = service.options.timeout
        raise Refusal(408, f"the body took longer than {seconds:g} s", close=True) from None


async def _parsed(text: bytes, json: int | None, service: Service, served: Served) -> Request:
    """Much JSON is parsed aside, one request at a time, so that others have their turns."""
    if (len(text) if json is None else json) <= ASIDE:
        return parse(text, json, served.signature)
    async with service.parsing:
        return await asyncio.to_thread(parse, text, json, served.signature)


async def _computed(http: HttpRequest, served: Served, request: Request, until: float) -> Arrays:
    """Wait for the outputs, the client's hanging up or the end of its time."""
    found: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
    entry = Entry(request.arrays, request.items, _sender(found))
    if not served.worker.queue.put(entry):
        raise _queue_is_full(served.signature.name)
    gone = asyncio.ensure_future(_gone(http))
    try:
        left = until - found.get_loop().time()
        await asyncio.wait({found, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return _outcome(found, gone, served.signature.name)
    finally:
        served.worker.queue.drop(entry)
        gone.cancel()
        found.cancel()


def _outcome(found: "asyncio.Future[Arrays]", gone: "asyncio.Future[None]", name: str) -> Arrays:
    if found.done():
        try:
            return found.result()
        except (ValueError, TypeError) as error:
            raise Refusal(400, f"{name}: {error}") from error
        except Exception as error:
            log.error("%s failed", name, exc_info=error)
            raise Refusal(500, f"{name}: {error}") from error
    if gone.done():
        raise ClientGone
    raise Refusal(504, f"{name}: no result within the time limit")


def _sender(found: "asyncio.Future[Arrays]") -> Any:
    """What a worker's thread calls with the outputs, or with what went wrong."""
    loop = found.get_loop()

    def settle(result: Arrays | Exception) -> None:
        if found.done():
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    def send(result: Arrays | Exception) -> None:
        if not loop.is_closed():  # the server may have ended meanwhile
            loop.call_soon_threadsafe(settle, result)

    return send


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _queue_is_full(name: str) -> Refusal:
    return Refusal(503, f"{name}: too many requests are waiting; try again")
