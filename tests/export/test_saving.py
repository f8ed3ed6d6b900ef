"""docs/saving.md: what each first example saves, its second loads in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sparsetrain as st

DOCS = Path(__file__).parents[2] / "docs" / "saving.md"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PARTS = (part.partition("\n") for part in DOCS.read_text().split("\n## ")[1:])
SECTIONS = {heading: CODE.findall(text) for heading, _, text in PARTS if CODE.search(text)}
ELSEWHERE = {"Compiled by AOTInductor", "Hugging Face"}  # a compiler's minute; not installed here
TOGETHER = sorted(SECTIONS.keys() - ELSEWHERE)

# One process imports, and each example runs in a fork of it: that is as fresh, and quick.
LOADS = """
import os, sys
from pathlib import Path
import torch
import sparsetrain as st
from safetensors.torch import load_file
from test_saving import SECTIONS, make_model
for heading in sys.argv[1:]:
    if not os.fork():
        os.chdir(heading)
        given = load_file("given")
        names = {"st": st, "make_model": make_model, "images": given["images"]}
        names["model"] = make_model()
        exec(SECTIONS[heading][1], names)
        torch.testing.assert_close(torch.as_tensor(names["y"]), given["y"])
        Path("right").touch()
        os._exit(0)
    os.wait()
"""


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


def save(heading):
    """Run the first example here, on a model with other weights than `make_model` gives."""
    model = make_model()
    if heading != "A plan":  # which is no weights
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.3, 0.3)
    images = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = {"st": st, "model": model, "images": images, "optimizer": optimizer}
    exec(SECTIONS[heading][0], names)
    with torch.no_grad():
        y = names.get("graph_module", model).eval()(images)
    save_file({"images": images, "y": y}, "given")


def load(*headings):
    python = [sys.executable, "-W", "ignore", "-c", LOADS, *headings]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(python, check=True, env=os.environ | {"PYTHONPATH": paths})


def test_each_example_loads_what_the_one_before_has_saved(monkeypatch, tmp_path):
    assert len(TOGETHER) == 7
    for heading in TOGETHER:
        (tmp_path / heading).mkdir()
        monkeypatch.chdir(tmp_path / heading)
        save(heading)
    monkeypatch.chdir(tmp_path)
    load(*TOGETHER)
    assert {p.parent.name for p in tmp_path.glob("*/right")} == set(TOGETHER)


@pytest.mark.slow
def test_the_compiled_example(monkeypatch, tmp_path):
    [heading] = [h for h in ELSEWHERE if "Compiled" in h]
    (tmp_path / heading).mkdir()
    monkeypatch.chdir(tmp_path / heading)
    save(heading)
    monkeypatch.chdir(tmp_path)
    load(heading)
    assert (tmp_path / heading / "right").exists()


def test_the_table_and_the_readme_lead_here():
    text = DOCS.read_text()
    anchors = {"#" + heading.lower().replace(" ", "-") for heading in SECTIONS}
    assert set(re.findall(r"\]\((#[^)]*)\)", text)) == anchors
    assert "docs/saving.md" in (DOCS.parents[1] / "README.md").read_text()
