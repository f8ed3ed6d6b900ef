"""Networks of diffusers: UNets, transformers and autoencoders, small and with random weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage_models import Case
from benchmarks.coverage_models import torchvision_ops as torchvision_ops  # before torchvision

import diffusers  # isort: skip

WIDTHS = (32, 64)
UNET = {"block_out_channels": WIDTHS, "layers_per_block": 1, "norm_num_groups": 8}
GIVEN = {"cross_attention_dim": 32, "attention_head_dim": 8}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE = {
    **{"block_out_channels": WIDTHS, "norm_num_groups": 8, "latent_channels": 4},
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
DIT = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2}


def latent(channels: int = 4, size: int = 16) -> Tensor:
    return torch.randn(2, channels, size, size)


def text(width: int = 32, length: int = 6) -> Tensor:
    return torch.randn(2, length, width)


def noised(x: Tensor) -> dict[str, Any]:
    return {"sample": x, "timestep": torch.tensor([3, 7])}


def told(x: Tensor) -> dict[str, Any]:
    return noised(x) | {"encoder_hidden_states": text()}


def hidden(**more: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        return {"hidden_states": latent(), "timestep": torch.tensor([3, 7])} | {
            name: value() if callable(value) else value for name, value in more.items()
        }

    return make


def flux() -> dict[str, Any]:
    return {
        **{"hidden_states": torch.randn(2, 16, 4), "encoder_hidden_states": text()},
        **{"pooled_projections": torch.randn(2, 32), "timestep": torch.tensor([0.3, 0.7])},
        **{"img_ids": torch.randn(16, 3), "txt_ids": torch.zeros(6, 3)},
    }


def prior() -> dict[str, Any]:
    x = {"hidden_states": torch.randn(2, 32), "timestep": torch.tensor([3, 7])}
    given = {"proj_embedding": torch.randn(2, 32), "encoder_hidden_states": text(32, 6)}
    return x | given | {"attention_mask": torch.ones(2, 6, dtype=torch.bool)}


def masked_tokens() -> dict[str, Any]:
    return {
        **{"input_ids": torch.randint(0, 50, (2, 8, 8)), "encoder_hidden_states": text()},
        **{"pooled_text_emb": torch.randn(2, 32), "micro_conds": torch.randn(2, 5)},
    }


Entry = tuple[str, Callable[[], Any], dict[str, Any]]
# name -> (class, a sample, the configuration)
FAMILIES: dict[str, Entry] = {
    "unet2d": (
        *("UNet2DModel", lambda: noised(latent(3))),
        UNET
        | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8}
        | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
    ),
    "unet2d_resnet": (
        *("UNet2DModel", lambda: noised(latent(3))),
        UNET
        | {"down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D")}
        | {"up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"), "attention_head_dim": 8},
    ),
    "unet2d_condition": ("UNet2DConditionModel", lambda: told(latent()), UNET | GIVEN | CROSS),
    "unet2d_condition_linear": (
        *("UNet2DConditionModel", lambda: told(latent())),
        UNET | GIVEN | CROSS | {"use_linear_projection": True, "transformer_layers_per_block": 2},
    ),
    "unet3d": (
        *("UNet3DConditionModel", lambda: told(torch.randn(2, 4, 3, 16, 16))),
        UNET
        | GIVEN
        | {"down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D")}
        | {"up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")},
    ),
    "unet1d": (
        *("UNet1DModel", lambda: noised(torch.randn(2, 14, 16))),
        {"in_channels": 14, "out_channels": 14, "block_out_channels": (32, 64)}
        | {
            "down_block_types": ("DownResnetBlock1D",) * 2,
            "mid_block_type": "MidResTemporalBlock1D",
        }
        | {"up_block_types": ("UpResnetBlock1D",), "out_block_type": "OutConv1DBlock"}
        | {"use_timestep_embedding": True, "act_fn": "swish", "extra_in_channels": 0}
        | {"time_embedding_type": "positional", "flip_sin_to_cos": False, "freq_shift": 1},
    ),
    "vae": ("AutoencoderKL", lambda: latent(3), VAE),
    "vae_asymmetric": (
        *("AsymmetricAutoencoderKL", lambda: latent(3)),
        {"down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 4}
        | {"up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 8}
        | {"down_block_out_channels": WIDTHS, "up_block_out_channels": WIDTHS},
    ),
    "vae_tiny": (
        *("AutoencoderTiny", lambda: latent(3)),
        {"encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32)}
        | {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), "latent_channels": 4},
    ),
    "vq": (
        *("VQModel", lambda: latent(3)),
        {k: v for k, v in VAE.items() if k != "latent_channels"} | {"latent_channels": 3},
    ),
    "dit": (
        *("DiTTransformer2DModel", hidden(class_labels=torch.tensor([1, 2]))),
        DIT | {"in_channels": 4, "sample_size": 16, "norm_num_groups": 8},
    ),
    "pixart": (
        *("PixArtTransformer2DModel", hidden(encoder_hidden_states=text)),
        DIT
        | {"in_channels": 4, "sample_size": 16, "caption_channels": 32, "norm_num_groups": 8}
        | {"cross_attention_dim": 32, "use_additional_conditions": False},
    ),
    "transformer2d": (
        *("Transformer2DModel", lambda: {"hidden_states": latent(32)}),
        DIT | {"in_channels": 32, "norm_num_groups": 8},
    ),
    "sd3": (
        *("SD3Transformer2DModel",),
        hidden(encoder_hidden_states=text, pooled_projections=lambda: torch.randn(2, 32)),
        DIT
        | {"sample_size": 16, "in_channels": 4, "joint_attention_dim": 32, "out_channels": 4}
        | {"caption_projection_dim": 32, "pooled_projection_dim": 32, "pos_embed_max_size": 16},
    ),
    "flux": (
        *("FluxTransformer2DModel", flux),
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
        | {"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32}
        | {"axes_dims_rope": (4, 4, 8)},
    ),
    "sana": (
        *("SanaTransformer2DModel", hidden(encoder_hidden_states=text)),
        DIT
        | {"in_channels": 4, "out_channels": 4, "sample_size": 16, "caption_channels": 32}
        | {"num_cross_attention_heads": 4, "cross_attention_head_dim": 8}
        | {"cross_attention_dim": 32, "patch_size": 1},
    ),
    "auraflow": (
        *("AuraFlowTransformer2DModel", hidden(encoder_hidden_states=text)),
        {"in_channels": 4, "out_channels": 4, "sample_size": 16, "caption_projection_dim": 32}
        | {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8}
        | {"num_attention_heads": 4, "joint_attention_dim": 32, "pos_embed_max_size": 64},
    ),
    "uvit": (
        *("UVit2DModel", masked_tokens),
        {"hidden_size": 64, "cond_embed_dim": 32, "encoder_hidden_size": 32, "vocab_size": 64}
        | {"micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40, "block_out_channels": 64}
        | {"codebook_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "sample_size": 8}
        | {"block_num_heads": 4, "num_res_blocks": 1, "intermediate_size": 128},
    ),
    "prior": (
        *("PriorTransformer", prior),
        DIT | {"embedding_dim": 32, "num_embeddings": 6, "additional_embeddings": 4},
    ),
}
NAMES = tuple(FAMILIES)


def build(name: str) -> Case:
    kind, sample, options = FAMILIES[name]
    return Case(getattr(diffusers, kind)(**options).eval(), sample())
