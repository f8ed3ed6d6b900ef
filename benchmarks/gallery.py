"""What `sparsetrain inspect` says of some networks, as docs/gallery.md with pictures beside it.

make gallery; it needs torchvision, timm and transformers.
"""

import argparse
import io
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from sparsetrain.shrink.inspection import examine, find_model, find_sample, picture
from sparsetrain.support.machine import machine

NETWORKS = {
    "resnet50": "torchvision.models:resnet50",
    "mobilenet_v3_small": "torchvision.models:mobilenet_v3_small",
    "convnext_tiny": "timm:convnext_tiny",
    "bert": "transformers:BertModel",
    "small_llama": "benchmarks/gallery.py:small_llama",
}
TOP = 20  # layers
HEAD = """# Gallery

What `sparsetrain inspect MODEL` says of networks that others wrote: which channels can only go
together, their widths and FLOPs, why some cannot go, and where the time is. Written by `make
gallery`, which needs torchvision, timm and transformers. FLOPs are those of one sample, times the
medians of one call in ms: {cpu}, {threads}, torch {torch}.
"""


def small_llama() -> nn.Module:
    """Four layers, four query heads for each head of keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 4096}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


def entry(name: str, spec: str, folder: Path) -> str:
    """A section of the gallery; its picture goes into the folder."""
    torch.manual_seed(0)
    model = find_model(spec)
    found = examine(model, find_sample(model, ""))
    console = Console(width=100, record=True, file=io.StringIO())
    found.show(console, TOP)
    picture(found, TOP).savefig(folder / f"{name}.svg", metadata={"Date": None})
    said = "\n".join(line.rstrip() for line in console.export_text().splitlines())
    command = f"sparsetrain inspect {spec} --top {TOP} --plot {name}.svg"
    shown = f"![Time and FLOPs of the layers of {name}]({folder.name}/{name}.svg)"
    return f"\n## {name}\n\n    {command}\n\n{shown}\n\n```text\n{said}\n```\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.out / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    here = machine("cpu")
    here["threads"] = "1 thread" if args.threads == 1 else f"{args.threads} threads"
    sections = [entry(name, spec, folder) for name, spec in NETWORKS.items()]
    (args.out / "gallery.md").write_text(HEAD.format(**here) + "".join(sections))


if __name__ == "__main__":
    main()
