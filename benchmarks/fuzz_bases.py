"""Small right files of deployed networks, which fuzz_networks changes: every kind of operation.

python -m benchmarks.fuzz_bases FOLDER
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.selection.masks import prunable

WIDTHS = (1, 4, 8, 16)  # of the groups that sparse weights are in


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def models() -> dict[str, tuple[nn.Module, Any]]:
    """Name -> a model of a few operations, and its sample."""
    image, tokens = torch.randn(2, 4, 6, 5), torch.randn(2, 5, 8)
    words = torch.randint(0, 9, (2, 5))
    functions = {
        "arithmetic": (lambda x: (x * 2 + x.exp()).maximum(x.sin()) / (x.abs() + 1), tokens),
        "choices": (lambda x: torch.where((x > 0) & (x < 1), x**2, x.floor().long()), image),
        "clamps": (lambda x: F.elu(x.clamp(-0.5, 0.5)) + F.softplus(x) + F.relu6(x), tokens),
        "margins": (lambda x: F.pad(F.pad(x, (1, 2), value=3), (2, 1, 1, 0), "reflect"), image),
        "wrapped": (lambda x: F.pad(F.pad(x, (1, 0), "circular"), (1, 2), "replicate"), tokens),
        "parts": (lambda x: torch.cat([*x.chunk(2, 1), x[:, ::2], x.new_ones(x.shape)], 1), tokens),
        "entries": (lambda x: x[:, [0, 2, 2]].roll(1, 1).flip(-1).cumsum(1), tokens),
        "spread": (lambda x: x.expand(2, *x.shape).movedim(0, 2).flatten(1), tokens),
        "sums": (lambda x: x.mean(1) + x.amax(1) + x.sum(1) + x.amin(1), tokens),
        "softmax": (lambda x: x.softmax(1) + x.log_softmax(-1), image),
        "products": (lambda x: x @ x.mT, tokens),
        "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), tokens),
        "two": (lambda x, y: F.silu(x) - y * 3, (tokens, tokens + 1)),
    }  # fmt: skip
    layers = {
        "convolution": (nn.Sequential(nn.Conv2d(4, 16, 3, 2, 1), nn.ReLU()), image),
        "groups": (nn.Sequential(nn.Conv2d(4, 32, 3, 1, 2, 2, groups=2), nn.Hardswish()), image),
        "depthwise": (nn.Conv2d(4, 4, 3, 1, 1, groups=4), image),
        "pointwise": (nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU6(), nn.Conv2d(16, 4, 1)), image),
        "linear": (nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)), tokens),
        "pools": (nn.Sequential(nn.MaxPool2d(3, 2, 1, 1, False, True), nn.AvgPool2d(2)), image),
        "adaptive pools": (nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(3)), image),
        "nearest": (nn.Upsample(scale_factor=1.7), image),
        "bilinear": (nn.Upsample((9, 5), mode="bilinear", align_corners=True), image),
        "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), image),
        "norms": (nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(5), nn.RMSNorm(5)), image),
        "batch norm": (nn.Sequential(nn.BatchNorm2d(4), nn.PReLU(4), nn.PixelShuffle(2)), image),
        "embedding": (nn.Embedding(9, 4), words),
        "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), tokens),
    }  # fmt: skip
    return {n: (Function(f), x) for n, (f, x) in functions.items()} | layers


def write(folder: Path) -> None:
    """Every model dense, and those with weights sparse in groups of each width that fits."""
    torch.manual_seed(0)
    for name, (model, sample) in models().items():
        model.eval()
        _deploy(folder, model, sample, name, None)
        if not any(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()):
            continue
        scores = {n: w.detach().abs() for n, w in prunable(model).items()}
        for v in WIDTHS:
            if max(len(s) for s in scores.values()) >= v:
                pattern = st.Vector(v) if v > 1 else st.Unstructured()
                masks = st.select(scores, 0.6, pattern=pattern, scope="layer")
                _deploy(folder, model, sample, f"{name} {v}", masks)


def _deploy(folder: Path, model: nn.Module, sample: Any, name: str, masks: Any) -> None:
    st.deploy(model, sample, folder / f"{name}.st", masks, threads=1, tune=False)


if __name__ == "__main__":
    warnings.simplefilter("error")
    write(Path(sys.argv[1]))
