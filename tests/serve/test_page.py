"""The page at /, in a browser: what a person sees and does."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serve_browser import BROWSER, DRIVER, browser
from serve_fakes import Doubler, running, spec, until

SHOTS = os.environ.get("SPARSETRAIN_SCREENSHOTS")  # a folder that keeps what the tests saw
COLOURS = ["red", "green", "blue"]
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium, chromium-driver")


class Colours(Doubler):
    """The mean of each channel, as scores."""

    def __init__(self, name="colours", **info):
        inputs, outputs = {"image": spec(None, 3, 16, 24)}, {"scores": spec(None, 7)}
        super().__init__(name, inputs, outputs, info)
        self.seen = []

    def __call__(self, arrays):
        (x,) = arrays.values()
        self.seen.append(x)
        return {"scores": np.pad(8 * x.mean((2, 3)), ((0, 0), (0, 4)))}


@pytest.fixture(scope="module")
def page():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def served():
    named = Colours(classes=[*COLOURS, *"abcd"], mean=[0.5, 0.5, 0.5], std=[0.5, 0.25, 0.5])
    networks = [named, Colours("plain"), Doubler()]
    with running(networks, batch_deadline_ms=0) as found:
        found.named = named
        yield found


@pytest.fixture(autouse=True)
def no_complaints(page):
    yield
    assert page.complaints() == []


@pytest.fixture
def picture(tmp_path):
    """Wide and red, with a green middle that is as high as it is wide times 16 / 24."""
    array = np.zeros((64, 400, 3), np.uint8)
    array[:, :, 0] = 255
    array[:, 152:248] = (0, 255, 0)
    Image.fromarray(array).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def shot(page, name):
    if SHOTS:
        page.screenshot(Path(SHOTS) / f"{name}.png")


def test_an_image_is_scaled_normalised_and_classified(page, served, picture):
    page.open(served.address)
    page.wait_for("colours", "#model")
    page.wait_for("scaled to 24 x 16, RGB, 0 to 1, then (x - mean) / std", "#made")
    page.choose_file("#file", picture)
    page.wait_for("green", "#top li:first-child")
    assert page.text("#top").split()[0] == "green"
    assert len(page.text("#top li").splitlines()) == 10  # five names and shares
    x = served.named.seen[-1]
    assert x.shape == (1, 3, 16, 24)
    np.testing.assert_allclose(x[0].mean((1, 2)), [-1, 2, -1], atol=0.02)  # the middle alone
    shot(page, "classified")


def test_an_image_is_dropped_and_its_latency_drawn(page, served):
    page.open(served.address)
    page.wait_for("scaled", "#made")
    page.run(
        """
        const canvas = Object.assign(document.createElement("canvas"), {width: 9, height: 9});
        const pen = canvas.getContext("2d");
        pen.fillStyle = "blue";
        pen.fillRect(0, 0, 9, 9);
        canvas.toBlob((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "blue.png", {type: "image/png"}));
          const dropped = new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true});
          document.getElementById("drop").dispatchEvent(dropped);
        });
        """
    )
    page.wait_for("blue", "#top li:first-child")
    page.wait_for("1 requests from this page: p50", "#latency")
    page.click("#again")
    page.wait_for("51 requests from this page", "#latency")
    until(lambda: page.run("return !document.getElementById('again').disabled"))
    heights = page.run(
        "return [...document.querySelectorAll('rect')].map(r => +r.getAttribute('height'))"
    )
    assert len(heights) == 24
    assert max(heights) > 100
    shot(page, "latencies")


def test_without_names_classes_have_numbers(page, served, picture):
    page.open(served.address)
    page.wait_for("plain", "#model")
    choose(page, "plain")
    page.wait_for("not normalised, since the file has no mean and std", "#made")
    page.choose_file("#file", picture)
    page.wait_for("class 1", "#top li:first-child")


def choose(page, name):
    page.run(
        "const m = document.getElementById('model'); m.value = arguments[0];"
        "m.dispatchEvent(new Event('change'))",
        name,
    )


def test_other_models_show_inputs_outputs_and_metrics(page, served):
    page.open(served.address)
    page.wait_for("doubler", "#model")
    choose(page, "doubler")
    page.wait_for("[batch, 4]", "#tensors")
    assert page.run("return document.getElementById('classify').hidden")
    page.click("#random")
    page.wait_for("[1, 4]", "#results")
    page.wait_for("1 requests from this page", "#latency")
    page.wait_for("requests answered", "#metrics")
    shot(page, "other")


def test_what_goes_wrong_is_said(page, served, tmp_path):
    (tmp_path / "none.png").write_text("no image")
    page.open(served.address)
    page.wait_for("scaled", "#made")
    page.choose_file("#file", tmp_path / "none.png")
    page.wait_for("none.png is no image that this browser reads", "#message")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1100])
def test_it_fits_narrow_screens_and_is_light_or_dark(page, served, picture, dark, width):
    page.dark(dark)
    page.open(served.address, width, 1500)
    page.wait_for("scaled", "#made")
    page.choose_file("#file", picture)
    page.wait_for("green", "#top li:first-child")
    back = "return getComputedStyle(document.body).backgroundColor"
    assert page.run(back) == ("rgb(20, 23, 28)" if dark else "rgb(246, 247, 249)")
    assert page.run("return document.body.scrollWidth <= innerWidth")
    shot(page, f"{'dark' if dark else 'light'}_{width}")
    page.click("#theme")
    assert page.run(back) == ("rgb(246, 247, 249)" if dark else "rgb(20, 23, 28)")
