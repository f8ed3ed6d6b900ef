import pytest
import torch

from sparsetrain import models

# Parameters of the published networks: torchvision's VGG-BN, ResNet and AlexNet at 1,000 classes.
PUBLISHED = {
    "alexnet": 61_100_840,
    "vgg16": 138_365_992,
    "vgg19": 143_678_248,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_imagenet_form_has_the_published_size(name, count):
    model = models.build(name, classes=1000, image_size=224)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.parametrize("image_size", [32, 64])
def test_small_forms_give_logits_and_gradients(name, image_size):
    model = models.build(name, classes=5, image_size=image_size, width=0.25)
    logits = model(torch.randn(2, 3, image_size, image_size))
    assert logits.shape == (2, 5)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_resnet20_is_the_papers_with_projections():
    model = models.build("resnet20", classes=10)
    parameter_free_shortcuts = 269_722  # 0.27 M in He et al., table 6
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert sum(p.numel() for p in model.parameters()) == parameter_free_shortcuts + projections


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "alexnet"])
def test_signal_neither_dies_nor_explodes_at_the_start(name):
    torch.manual_seed(0)
    model = models.build(name, classes=10)
    hidden = []
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda m, args: hidden.append(args[0]))
    model(torch.randn(8, 3, 32, 32))
    assert 0.05 < hidden[0].std() < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg61"}, "no model is called 'vgg61'; did you mean 'vgg1[69]'"),
        ({"name": "vgg16", "width": 0.0}, "got 10, 32, 0.0"),
        ({"name": "vgg16", "image_size": 8}, "image_size >= 32"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        models.build(**{"classes": 10, **options})
