"""From a model in PyTorch to a file, and what the runtime computes from it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.lowering import Net
from torch import nn

import sparsetrain as st
import sparsetrain_runtime
from sparsetrain.cli import main
from sparsetrain.selection.masks import prunable
from sparsetrain_runtime import EngineError, NetworkError

RUNTIME = Path(sparsetrain_runtime.__file__).parents[1]


class Block(nn.Module):
    def __init__(self, channels, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(channels, 16, 1, stride)

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        Block(16), Block(16, 2), Block(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def images(n, size=12):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def masks_of(net, pattern):
    scores = {name: w.detach().abs() for name, w in prunable(net).items()}
    return st.select(scores, 0.7, pattern=pattern, scope="layer")


def truth(net, x):
    with torch.no_grad():
        return net(x).numpy()


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def net_st(tmp_path_factory):
    path = tmp_path_factory.mktemp("deployed") / "net.st"
    net = network()
    masks = masks_of(net, st.Vector(4))
    st.deploy(
        net, images(2), path, masks, threads=1, info={"classes": [f"c{i}" for i in range(10)]}
    )
    for name, mask in masks.items():
        net.get_parameter(name).data.mul_(mask)
    return path, net


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 19])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_batch_equals_pytorch(net_st, batch, threads):
    path, net = net_st
    loaded = sparsetrain_runtime.load(path, threads, self_test=True, tune=False)
    close(loaded(images(batch).numpy()), truth(net, images(batch)))


@pytest.mark.parametrize("tune", [True, False])
@pytest.mark.parametrize("pattern", [st.Unstructured(), st.Vector(8)])
def test_each_form_computes_the_same(pattern, tune):
    net = network()
    masks = masks_of(net, pattern)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fast = st.engine.compile(net, images(2), masks, threads=1, tune=tune)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    for name, mask in masks.items():
        net.get_parameter(name).data.mul_(mask)
    close(fast(images(4)).numpy(), truth(net, images(4)))


def test_shrunk_and_sparsified_networks(tmp_path):
    net = network()
    st.plan(net, images(2), st.scores.GroupNorm(), channels=0.5).apply()
    masks = masks_of(net, st.Unstructured())
    for name, mask in masks.items():
        net.get_parameter(name).data.mul_(mask)
    wanted = truth(net, images(3))
    st.sparsify(net, masks, images(2), force="unstructured", cache=None)
    st.deploy(net, images(2), tmp_path / "net.st", tune=False)
    close(sparsetrain_runtime.load(tmp_path / "net.st")(images(3).numpy()), wanted)


def test_several_inputs_and_outputs_by_name(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(4, 5)

        def forward(self, left, right):
            both = self.a(left) + self.b(right)
            return {"sum": both, "gate": torch.sigmoid(both)}

    net = Two().eval()
    left, right = torch.randn(3, 6), torch.randn(3, 4)
    st.deploy(net, {"left": left, "right": right}, tmp_path / "two.st", tune=False)
    loaded = sparsetrain_runtime.load(tmp_path / "two.st", 1)
    assert list(loaded.inputs) == ["left", "right"]
    found = loaded(right=right.numpy(), left=left.numpy())
    wanted = net(left, right)
    for name in ("sum", "gate"):
        close(found[name], wanted[name].detach().numpy())


def test_a_tensor_that_is_given_twice_is_two_inputs(tmp_path):
    x, other = torch.randn(2, 3), torch.randn(2, 3)
    net = Net(lambda net, a, b: a - 2 * b)
    st.deploy(net, (x, x), tmp_path / "net.st", tune=False)
    loaded = sparsetrain_runtime.load(tmp_path / "net.st", 1, self_test=True)
    close(loaded(x.numpy(), other.numpy()), (x - 2 * other).numpy())


def test_wrong_input_is_one_line(net_st):
    loaded = sparsetrain_runtime.load(net_st[0], 1, tune=False)
    x = images(2).numpy()
    for given, message in [
        ((x.astype(np.float64),), "must be float32, got float64"),
        ((x[:, :2],), r"must be \[N, 3, 12, 12\], got \[2, 2, 12, 12\]"),
        ((x[0],), r"got \[3, 12, 12\]"),
        ((x, x), "1 inputs are needed, got 2"),
        ((), "the inputs are"),
    ]:
        with pytest.raises(EngineError, match=message) as caught:
            loaded(*given)
        assert "\n" not in str(caught.value)


def test_no_items(net_st):
    loaded = sparsetrain_runtime.load(net_st[0], 1, tune=False)
    assert loaded(images(2).numpy()[:0]).shape == (0, 10)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_odd_numbers_stay_in_their_item_and_pass_dense_weights_as_in_pytorch(net_st, odd):
    path, sparse = net_st
    x = images(3)
    x[1, 0, 4, 4] = odd
    others = sparsetrain_runtime.load(path, 1, tune=False)(x.numpy())[[0, 2]]
    close(others, truth(sparse, x)[[0, 2]])
    net = network()
    found, wanted = st.engine.compile(net, images(2), tune=False)(x).numpy(), truth(net, x)
    assert (np.isnan(found) == np.isnan(wanted)).all()
    close(found[[0, 2]], wanted[[0, 2]])


def test_eight_threads_call_one_network(net_st):
    path, net = net_st
    loaded = sparsetrain_runtime.load(path, 1, tune=False)
    wrong: list[int] = []

    def call(n):
        wanted = truth(net, images(n))
        for _ in range(10):
            if np.abs(loaded(images(n).numpy()) - wanted).max() > 1e-4 * np.abs(wanted).max():
                wrong.append(n)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_holds_live_weights_alone(tmp_path):
    wide = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    masks = masks_of(wide, st.Unstructured())
    st.deploy(wide, torch.randn(2, 256), tmp_path / "dense.st", tune=False)
    st.deploy(wide, torch.randn(2, 256), tmp_path / "sparse.st", masks, tune=False)
    sizes = {n: (tmp_path / f"{n}.st").stat().st_size for n in ("dense", "sparse")}
    assert sizes["sparse"] < 0.55 * sizes["dense"]  # 30% of the weights, 6 bytes each


def test_runs_where_there_is_no_torch(net_st, tmp_path):
    """In a process that sees the runtime and numpy alone."""
    site = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (site / name).exists():
            (tmp_path / name).symlink_to(site / name)
    code = """
import importlib.util, json, sys
import numpy, sparsetrain_runtime
assert importlib.util.find_spec("torch") is None
net = sparsetrain_runtime.load(sys.argv[1], threads=1, tune=False, self_test=True)
print(json.dumps(net(numpy.ones((2, 3, 12, 12), numpy.float32)).tolist()))
"""
    path = os.pathsep.join([str(tmp_path), str(RUNTIME)])
    command = [sys.executable, "-S", "-c", code, str(net_st[0])]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path})
    assert not done.returncode, done.stderr
    wanted = truth(net_st[1], torch.ones(2, 3, 12, 12))
    close(np.array(json.loads(done.stdout)), wanted)


def test_what_the_engine_lacks_is_refused_before_a_file_is_there(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(ValueError, match=r"deploy: .*svd.* has no operation in the engine"):
        st.deploy(Odd(), torch.randn(2, 4, 4), tmp_path / "odd.st")
    assert not list(tmp_path.iterdir())


def test_infer_says_what_images_show(net_st, tmp_path, capsys, monkeypatch):
    from PIL import Image

    picture = tmp_path / "a [b] $x$.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(picture)
    arguments = ["sparsetrain", "infer", str(net_st[0]), str(picture), "--threads", "1"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for extra, check in ((["--json"], _is_json), ([], lambda text: "c" in text)):
        monkeypatch.setattr(sys, "argv", [*arguments, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert check(capsys.readouterr().out)


def _is_json(text):
    [guess] = json.loads(text)
    return len(guess["classes"]) == 5 and guess["classes"][0].startswith("c")


def test_another_version_is_refused(net_st, tmp_path):
    raw = net_st[0].read_bytes().replace(b'"version":"1"', b'"version":"7"', 1)
    (tmp_path / "net.st").write_bytes(raw)
    with pytest.raises(NetworkError, match="it is of version 7"):
        sparsetrain_runtime.load(tmp_path / "net.st")


def test_attention_over_more_than_one_axis_of_items():
    class Windows(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = (torch.randn(2, 3, 2, 5, 4) for _ in range(3))
    fast = st.engine.compile(Windows(), (q, k, v), threads=1, tune=False)
    close(fast(q, k, v).numpy(), Windows()(q, k, v).numpy())
