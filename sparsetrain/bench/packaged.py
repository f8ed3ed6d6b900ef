"""Networks of other packages, with random weights, for `bench models`: where these are installed.

mobilenet_v2            torchvision
vit_small_patch16_224   timm
bert_base               transformers: input_ids alone, without padding; the last hidden state
"""

from collections.abc import Callable

from torch import Tensor, nn

from sparsetrain.bench.rivals import installed

PACKAGES = {
    "mobilenet_v2": "torchvision",
    "vit_small_patch16_224": "timm",
    "bert_base": "transformers",
}
VOCABULARY = 30522  # of bert_base


def missing(model: str) -> str | None:
    """The package that a network needs and that is not installed, or None."""
    package = PACKAGES.get(model)
    return None if package is None or installed(package) else package


def build(model: str) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "mobilenet_v2": _mobilenet,
        "vit_small_patch16_224": _vit,
        "bert_base": Bert,
    }
    return makers[model]()


class Bert(nn.Module):
    """BERT-base without its pooler, which a task's head seldom reads."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.encoder = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.encoder(input_ids).last_hidden_state


def _mobilenet() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2()


def _vit() -> nn.Module:
    import timm

    return timm.create_model("vit_small_patch16_224")
