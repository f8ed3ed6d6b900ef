"""Files of every wrong kind give each loader's own error, in one line."""

import json
import os
from dataclasses import asdict

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.support.reading import text_of
from sparsetrain.support.schema import Each, Fields, Maybe, Named, Number, Text, fields_of
from sparsetrain.support.timings import Cache
from sparsetrain.training.compare.result import read_result
from sparsetrain.training.config import Config, load_config

X = torch.ones(1, 4)


def load_plan(path):
    st.load_plan(path, nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), X)


LOADERS = {
    "checkpoint": st.checkpoint.load,
    "model": lambda path: st.checkpoint.load_model(path, nn.Linear(4, 2)),
    "plan": load_plan,
    "config": load_config,
    "result": read_result,
}


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path)


def zeros(path):
    with path.open("wb") as file:
        file.truncate(40 * 2**30)


KINDS = {
    "folder": lambda path: path.mkdir(),
    "pipe": pipe,
    "loop": loop,
    "zeros": zeros,
    "deep": lambda path: path.write_text("[" * 10**6),
    "digits": lambda path: path.write_text("9" * 10**5),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "empty": lambda path: path.write_text(""),
    "surrogate": lambda path: path.write_text('{"format": "\\ud800"}'),
    "null": lambda path: path.write_text("null"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_file_of_ours_is_one_line(tmp_path, loader, kind):
    if (loader, kind) == ("result", "loop"):
        return  # as none
    path = tmp_path / "file"
    KINDS[kind](path)
    with pytest.raises(ValueError, match=r"is damaged: .+") as caught:
        LOADERS[loader](path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_cache_is_as_none(tmp_path, kind):
    KINDS[kind](tmp_path / "times.json")
    with pytest.warns(UserWarning, match="is ignored, it cannot be read"):
        cache = Cache(tmp_path)
    assert cache.times({"a": 1}, lambda: {"dense": 2.0}) == {"dense": 2.0}


def test_times_that_lack_what_is_needed_are_measured_again(tmp_path):
    cache = Cache(tmp_path)
    cache.times({"a": 1}, lambda: {"sparse": 1.0})
    cache.write()
    assert Cache(tmp_path).times({"a": 1}, lambda: {"dense": 2.0}) == {"sparse": 1.0}
    again = Cache(tmp_path).times({"a": 1}, lambda: {"dense": 2.0}, needed=("dense",))
    assert again == {"dense": 2.0}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", "3", "epochs must be a whole number, got '3'"),
        ("epochs", 0, "epochs must be 1 or more, got 0"),
        ("epochs", True, "epochs must be a whole number, got True"),
        ("lr", float("nan"), "lr must be a number, got nan"),
        ("model", ["vgg16"], "model must be text, got a list of 1"),
        ("nesterov", 1, "nesterov must be true or false, got 1"),
        ("speed", 1, "it has an unknown 'speed'"),
    ],
)
def test_a_config_with_another_value_is_refused(tmp_path, name, value, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(Config()) | {name: value}))
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_a_config_comes_back(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(Config(lr=1, threads=2))))
    assert load_config(path) == Config(lr=1, threads=2)


def test_text_is_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "a").write_bytes("ä".encode())
    assert text_of(tmp_path / "a") == "ä"


SPEC = Fields(
    {"n": Number(whole=True, low=0, high=9), "t": Maybe(Text(("a", "b")))},
    {"each": Each(Named(Number()), 2)},
)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"n": 1, "t": None}, ""),
        ({"n": 1, "t": "a", "each": [{}, {"x": 0.5}]}, ""),
        ({"n": 1.0, "t": None}, "n must be a whole number from 0 to 9, got 1.0"),
        ({"n": 10**400, "t": None}, "n must be a whole number from 0 to 9, got 1"),
        ({"n": 1, "t": "c"}, "t must be one of a, b, got 'c'"),
        ({"n": 1}, "it lacks 't'"),
        ({"n": 1, "t": None, "u": 0}, "it has an unknown 'u'"),
        ({"n": 1, "t": None, "each": [{}]}, "each must have 2 entries, got 1"),
        ({"n": 1, "t": None, "each": [{}, {"x": "y"}]}, r"each\[1\].x must be a number, got 'y'"),
        ([], "it must be an object, got a list of 0"),
    ],
)
def test_a_specification_names_what_is_wrong(value, fault):
    if fault:
        with pytest.raises(ValueError, match=fault):
            SPEC.check(value)
    else:
        SPEC.check(value)


def test_specifications_follow_type_hints():
    assert fields_of(Config).optional["threads"] == Maybe(Number(whole=True))
