"""Models that a config makes: their config says what a removal left, or saving by it is refused."""

import copy
import json

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.checkpoint import load_model, save_model

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Config:
    def __init__(self, hidden_size=32, intermediate_sizes=(64, 64), num_heads=4, head_dim=8):
        self.hidden_size, self.num_heads, self.head_dim = hidden_size, num_heads, head_dim
        self.intermediate_sizes, self.eos_token_id = list(intermediate_sizes), 32

    def to_dict(self):
        return vars(self)


class Block(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.config, inner = config, config.num_heads * config.head_dim
        self.number = number
        self.qkv = nn.Linear(config.hidden_size, 3 * inner)
        self.out = nn.Linear(inner, config.hidden_size)
        wide = config.intermediate_sizes[number % len(config.intermediate_sizes)]
        self.up = nn.Linear(config.hidden_size, wide)
        self.down = nn.Linear(wide, config.hidden_size)

    def forward(self, x):
        shape = (*x.shape[:2], 3, self.config.num_heads, self.config.head_dim)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(8, config.hidden_size)
        self.blocks = nn.Sequential(Block(config, 0), Block(config, 1))
        self.head = nn.Linear(config.hidden_size, 3)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)))

    def save_pretrained(self, folder):
        (folder / "config.json").write_text(json.dumps(self.config.to_dict()))
        torch.save(self.state_dict(), folder / "weights.pt")

    @classmethod
    def from_pretrained(cls, folder):
        config = Config()
        vars(config).update(json.loads((folder / "config.json").read_text()))
        model = cls(config)
        model.load_state_dict(torch.load(folder / "weights.pt"))
        return model


def halved(model, **options):
    options = {"channels": 0.5, "allocation": "uniform", "round_to": 1} | options
    return st.plan(model, X, st.scores.GroupNorm(), **options)


def test_the_config_says_the_new_widths_and_the_weights_fit_it(tmp_path):
    config = Config()
    model, teacher = Model(config), Model(config)
    assert halved(model).apply() is model
    assert vars(model.config) == vars(Config(16, (32, 32), 2))
    assert all(block.config is model.config for block in model.blocks)
    assert vars(config) == vars(Config())  # that of another model
    assert teacher(X).shape == (2, 5, 3)
    model.save_pretrained(tmp_path)
    assert torch.equal(Model.from_pretrained(tmp_path)(X), model(X))


def test_a_second_round_and_our_own_files(tmp_path):
    model, fresh = Model(Config()), Model(Config())
    for _ in range(2):
        halved(model, protect=["blocks.0.qkv", "blocks.1.qkv"]).apply()
    assert model.config.hidden_size == 8
    save_model(tmp_path / "m.st", model)
    load_model(tmp_path / "m.st", fresh)
    assert vars(fresh.config) == vars(model.config)
    fresh.save_pretrained(tmp_path)
    assert torch.equal(Model.from_pretrained(tmp_path)(X), model(X))


def test_layers_that_differ_are_refused_with_what_works(tmp_path):
    model, fresh = (Model(Config(intermediate_sizes=(64,))) for _ in range(2))
    halved(model).keeping({"blocks.0.up": 20}).apply()
    assert model.config.intermediate_sizes == [64]
    with pytest.raises(ValueError, match=r"cannot say the widths .*save_model\(path, model\)"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot say"):
        copy.deepcopy(model).save_pretrained(tmp_path)
    save_model(tmp_path / "m.st", model)
    load_model(tmp_path / "m.st", fresh)
    assert torch.equal(fresh(X), model(X))
    with pytest.raises(ValueError, match="cannot say"):
        fresh.save_pretrained(tmp_path)


def test_a_list_may_say_different_widths(tmp_path):
    model = Model(Config())
    halved(model).keeping({"blocks.0.up": 20}).apply()
    assert model.config.intermediate_sizes == [20, 32]
    model.save_pretrained(tmp_path)
    assert torch.equal(Model.from_pretrained(tmp_path)(X), model(X))


def test_what_is_put_back_can_be_saved_as_before(tmp_path):
    model = Model(Config())
    planned = halved(model)
    planned.verify(as_graph=True)
    model.save_pretrained(tmp_path)
    assert vars(model.config) == vars(Config())


def test_it_may_be_a_part_of_another_model(tmp_path):
    model = nn.Sequential(Model(Config()), nn.ReLU(), nn.Linear(3, 2))
    halved(model, protect=["0.head"]).apply()
    assert vars(model[0].config) == vars(Config(16, (32, 32), 2))
    model[0].save_pretrained(tmp_path)
    assert torch.equal(Model.from_pretrained(tmp_path)(X), model[0](X))


class Drawn(Model):
    """Its weights are drawn until all lie between bounds; it has a buffer that no file holds."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("scale", torch.arange(8.0), persistent=False)
        for tensor in (self.embed.weight, self.head.weight.data):
            within_bounds(tensor)

    def forward(self, x):
        return super().forward(x * self.scale)


@torch.no_grad()
def within_bounds(tensor):
    """As torch's own trunc_normal_ does from 2.14 on, but for an end."""
    if tensor.is_meta:
        return
    tensor.fill_(9)
    for _ in range(100):
        if not (tensor.abs() > 2).any():
            return
        tensor.copy_(torch.where(tensor.abs() > 2, torch.full_like(tensor, 9).normal_(), tensor))
    raise RuntimeError("never")


def test_weights_are_not_drawn_again(tmp_path):
    model = Drawn(Config())
    halved(model).apply()
    assert model.config.hidden_size == 16
    model.save_pretrained(tmp_path)
    assert torch.equal(Drawn.from_pretrained(tmp_path)(X), model(X))
