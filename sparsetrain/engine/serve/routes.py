"""The protocol's addresses: health, models, inference; metrics and the page."""

from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sparsetrain.engine.serve import page
from sparsetrain.engine.serve.answer import VERSION
from sparsetrain.engine.serve.datatypes import name_of
from sparsetrain.engine.serve.infer import infer
from sparsetrain.engine.serve.network import TensorSpec
from sparsetrain.engine.serve.refusal import Refusal
from sparsetrain.engine.serve.service import Served, Service

EXTENSIONS = ["binary_tensor_data", "model_configuration"]
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PLATFORM = "sparsetrain"


def application(service: Service) -> Starlette:
    """An ASGI application; `service` is started and stopped by whoever runs it."""
    routes = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/metrics", metrics),
        *_of_models(),
        *page.routes(),
    ]
    handlers = {Refusal: _refused, HTTPException: _no_such_thing, Exception: _failed}
    found = Starlette(routes=routes, exception_handlers=handlers)
    found.state.service = service
    return found


def _of_models() -> list[Route]:
    own: dict[str, tuple[Any, str]] = {
        "": (model, "GET"),
        "/ready": (model_ready, "GET"),
        "/config": (config, "GET"),
        "/infer": (infer, "POST"),
    }
    return [
        Route(f"/v2/models/{{name}}{version}{end}", endpoint, methods=[method])
        for version in ("", "/versions/{version}")
        for end, (endpoint, method) in own.items()
    ]


async def server(request: Request) -> Response:
    said = {"name": PLATFORM, "version": version("sparsetrain"), "extensions": EXTENSIONS}
    return JSONResponse(said)


async def live(request: Request) -> Response:
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    return _state({"ready": _service(request).ready})


async def model_ready(request: Request) -> Response:
    served = _served(request)
    ready = served.ready and not _service(request).closing
    return _state({"name": served.signature.name, "ready": ready})


async def index(request: Request) -> Response:
    return JSONResponse([_indexed(served) for served in _service(request).models.values()])


async def model(request: Request) -> Response:
    served = _served(request)
    signature = served.signature
    return JSONResponse(
        {
            "name": signature.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor(*item) for item in signature.inputs.items()],
            "outputs": [_tensor(*item) for item in signature.outputs.items()],
            "parameters": served.info,
        }
    )


async def config(request: Request) -> Response:
    """As Triton's clients ask for it; sizes there are without the batch."""
    signature = _served(request).signature
    return JSONResponse(
        {
            "name": signature.name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": signature.most if signature.batched else 0,
            "input": _configured(signature.inputs, signature.batched),
            "output": _configured(signature.outputs, signature.batched),
        }
    )


async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.text(), media_type=PROMETHEUS)


def _service(request: Request) -> Service:
    return request.app.state.service


def _served(request: Request) -> Served:
    parameters = request.path_params
    return _service(request).find(parameters["name"], parameters.get("version"))


def _state(said: dict[str, Any]) -> Response:
    return JSONResponse(said, 200 if said["ready"] else 503)


def _indexed(served: Served) -> dict[str, str]:
    state, name = served.worker.state, served.signature.name
    known = {"ready": "READY", "loading": "LOADING"}.get(state, "UNAVAILABLE")
    reason = state if known == "UNAVAILABLE" else ""
    return {"name": name, "version": VERSION, "state": known, "reason": reason}


def _tensor(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if n is None else n for n in spec.shape]
    return {"name": name, "datatype": name_of(spec.dtype), "shape": shape}


def _configured(specs: Any, batched: bool) -> list[dict[str, Any]]:
    tensors = [_tensor(*item) for item in specs.items()]
    return [
        {
            "name": tensor["name"],
            "data_type": f"TYPE_{tensor['datatype']}",
            "dims": tensor["shape"][1 if batched else 0 :],
        }
        for tensor in tensors
    ]


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response()


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    line = f"{request.method} {request.url.path}: {error.detail}"
    response = Refusal(error.status_code, line).response()
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    return Refusal(500, f"the server failed: {type(error).__name__}").response()
