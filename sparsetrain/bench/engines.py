"""Dense inference engines besides torch, where they are installed: ONNX Runtime and OpenVINO."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsetrain.bench.rivals import installed
from sparsetrain.export import export_onnx

Infer = Callable[[], Tensor]


def engines(model: nn.Module, x: Tensor) -> dict[str, Infer]:
    """Name -> inference of x by torch's present number of threads, in fp32."""
    wanted = {"onnxruntime": ("ONNX Runtime", _onnxruntime), "openvino": ("OpenVINO", _openvino)}
    there = [both for package, both in wanted.items() if installed(package)]
    if not there or not installed("onnxscript"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, x, path, any_batch=False, check=False)
        return {name: make(path, x) for name, make in there}


def _onnxruntime(path: Path, x: Tensor) -> Infer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Threads that go on spinning after a run would take time from the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    feed = {given.name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _openvino(path: Path, x: Tensor) -> Infer:
    import openvino

    how = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", how).create_infer_request()
    given = {0: openvino.Tensor(x.numpy(), shared_memory=True)}
    return lambda: torch.from_numpy(request.infer(given, share_outputs=True)[0])
