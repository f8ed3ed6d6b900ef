"""Hugging Face's families of transformers: small configurations, random weights, a task's head.

Two layers, 4 heads of 16 (2 of keys and values, where the family shares them), so that the stream
between the layers is not what the network returns: of several outputs the head's alone count.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_models import Case
from benchmarks.coverage_models import torchvision_ops as torchvision_ops  # before torchvision

import transformers  # isort: skip

VOCABULARY, LENGTH = 100, 12
ENCODER = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 128, "vocab_size": VOCABULARY},
}
DECODER = ENCODER | {
    **{"num_key_value_heads": 2, "use_cache": False, "max_position_embeddings": 64},
    "pad_token_id": 0,
}
HEADS_OF_16 = DECODER | {"head_dim": 16}
FALCON = {
    **{"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2},
    "num_attention_heads": 4,
}
GPT = {
    **{"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "use_cache": False,
}
BOTH = {
    **{"vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128},
    **{"decoder_ffn_dim": 128, "pad_token_id": 0, "decoder_start_token_id": 1},
}
TRANSLATOR = BOTH | {"max_position_embeddings": 64}
T5 = {
    **{"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2},
    "num_heads": 4,
}
IMAGE = {k: v for k, v in ENCODER.items() if k != "vocab_size"} | {
    **{"image_size": 32, "patch_size": 8}
}
STAGES = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4]}
SOUND = ENCODER | {
    **{"conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3)},
    **{"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16},
    "num_conv_pos_embedding_groups": 4,
}
RELATIVE = ENCODER | {
    **{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32}
}
STATE = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}


def words(length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY - 1, (2, length))


def text() -> dict[str, Any]:
    return {"input_ids": words(), "attention_mask": torch.ones(2, LENGTH, dtype=torch.long)}


def prompt() -> dict[str, Any]:
    return {"input_ids": words(), "use_cache": False}


def translation() -> dict[str, Any]:
    return prompt() | {"decoder_input_ids": words(8)}


def picture(size: int = 32) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def large_picture() -> dict[str, Any]:
    return picture(64)


def captioned() -> dict[str, Any]:
    return text() | picture()


def sound() -> dict[str, Any]:
    return {"input_values": torch.randn(1, 4000)}


def speech() -> dict[str, Any]:
    made = {"decoder_input_ids": words(6)[:1], "use_cache": False}
    return {"input_features": torch.randn(1, 20, 64)} | made


def spectrum() -> dict[str, Any]:
    return {"input_values": torch.randn(1, 64, 32)}


TASKS = {
    "classify": "ForSequenceClassification",
    "mask": "ForMaskedLM",
    "next": "ForCausalLM",
    "image": "ForImageClassification",
}
Entry = tuple[str, str, Callable[[], dict[str, Any]], dict[str, Any]]
# name -> (the family's prefix of its classes, the head, a sample, the configuration)
FAMILIES: dict[str, Entry] = {
    "bert": ("Bert", "classify", text, ENCODER),
    "roberta": ("Roberta", "mask", text, ENCODER),
    "xlm_roberta": ("XLMRoberta", "classify", text, ENCODER),
    "camembert": ("Camembert", "mask", text, ENCODER),
    "distilbert": (
        *("DistilBert", "classify", text),
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": VOCABULARY},
    ),
    "albert": ("Albert", "classify", text, ENCODER | {"embedding_size": 32}),
    "electra": ("Electra", "classify", text, ENCODER | {"embedding_size": 32}),
    "mpnet": ("MPNet", "classify", text, ENCODER),
    "squeezebert": ("SqueezeBert", "classify", text, ENCODER | {"embedding_size": 64}),
    "mobilebert": (
        *("MobileBert", "classify", text),
        ENCODER
        | {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
    ),
    "convbert": ("ConvBert", "classify", text, ENCODER | {"embedding_size": 64}),
    "roformer": ("RoFormer", "classify", text, ENCODER | {"embedding_size": 64}),
    "modernbert": (
        *("ModernBert", "classify", text),
        ENCODER | {f"{kind}_token_id": 0 for kind in ("pad", "bos", "eos", "cls", "sep")},
    ),
    "deberta": ("Deberta", "classify", text, RELATIVE),
    "deberta_v2": (
        *("DebertaV2", "classify", text),
        RELATIVE | {"position_buckets": 16, "share_att_key": True},
    ),
    "xlnet": (
        *("XLNet", "classify", text),
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
    ),
    "funnel": (
        *("Funnel", "classify", text),
        {"vocab_size": VOCABULARY, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128}
        | {"block_sizes": [1, 1], "num_decoder_layers": 1},
    ),
    "gpt2": ("GPT2", "GPT2LMHeadModel", prompt, GPT),
    "gptj": ("GPTJ", "next", prompt, GPT | {"rotary_dim": 8}),
    "gpt_bigcode": ("GPTBigCode", "next", prompt, GPT),
    "codegen": ("CodeGen", "next", prompt, GPT | {"rotary_dim": 8}),
    "gpt_neo": (
        *("GPTNeo", "next", prompt),
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_layers": 2, "num_heads": 4}
        | {"attention_types": [[["global", "local"], 1]], "intermediate_size": 128}
        | {"max_position_embeddings": 64},
    ),
    "gpt_neox": ("GPTNeoX", "next", prompt, ENCODER),
    "opt": (
        *("OPT", "next", prompt),
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "ffn_dim": 128}
        | {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    ),
    "bloom": (
        *("Bloom", "next", prompt),
        {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    ),
    "mpt": (
        *("Mpt", "next", prompt),
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "llama": ("Llama", "next", prompt, DECODER),
    "llama_tied": ("Llama", "next", prompt, DECODER | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", "next", prompt, DECODER),
    "mixtral": (
        *("Mixtral", "next", prompt),
        DECODER | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "qwen2": ("Qwen2", "next", prompt, DECODER),
    "qwen3": ("Qwen3", "next", prompt, HEADS_OF_16),
    "gemma": ("Gemma", "next", prompt, HEADS_OF_16),
    "gemma2": ("Gemma2", "next", prompt, HEADS_OF_16),
    "gemma3": ("Gemma3", "next", prompt, HEADS_OF_16),
    "phi": ("Phi", "next", prompt, DECODER),
    "phi3": ("Phi3", "next", prompt, DECODER),
    "falcon": ("Falcon", "next", prompt, FALCON),
    "falcon_new": (
        *("Falcon", "next", prompt),
        FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "stablelm": ("StableLm", "next", prompt, DECODER),
    "olmo2": ("Olmo2", "next", prompt, DECODER),
    "cohere": ("Cohere", "next", prompt, DECODER),
    "granite": ("Granite", "next", prompt, DECODER),
    "starcoder2": ("Starcoder2", "next", prompt, DECODER),
    "smollm3": ("SmolLM3", "next", prompt, DECODER),
    "recurrent_gemma": (
        *("RecurrentGemma", "next", prompt),
        ENCODER | {"num_hidden_layers": 3, "num_key_value_heads": 1, "attention_window_size": 32},
    ),
    "mamba": ("Mamba", "next", prompt, STATE),
    "mamba2": (
        *("Mamba2", "next", prompt),
        STATE | {"num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    ),
    "t5": ("T5", "T5ForConditionalGeneration", translation, T5),
    "flan_t5": (
        *("T5", "T5ForConditionalGeneration", translation),
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": ("Bart", "BartForConditionalGeneration", translation, TRANSLATOR),
    "pegasus": ("Pegasus", "PegasusForConditionalGeneration", translation, TRANSLATOR),
    "marian": ("Marian", "MarianMTModel", translation, TRANSLATOR),
    "vit": ("ViT", "image", picture, IMAGE),
    "deit": ("DeiT", "image", picture, IMAGE),
    "beit": ("Beit", "image", picture, IMAGE | {"use_relative_position_bias": True}),
    "dinov2": ("Dinov2", "image", picture, IMAGE | {"mlp_ratio": 2}),
    "swin": ("Swin", "image", large_picture, STAGES | {"window_size": 4}),
    "swinv2": ("Swinv2", "image", large_picture, STAGES | {"window_size": 4}),
    "segformer": (
        *("Segformer", "SegformerForSemanticSegmentation", large_picture),
        {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 2], "hidden_sizes": [32, 64]}
        | {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [2, 4]}
        | {"mlp_ratios": [2, 2], "decoder_hidden_size": 64},
    ),
    "convnext": (
        *("ConvNext", "image", large_picture),
        {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    ),
    "mobilevit": (
        *("MobileViT", "image", large_picture),
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": 4}
        | {"neck_hidden_sizes": [16, 16, 32, 32, 48, 64, 64]},
    ),
    "levit": (
        *("Levit", "image", large_picture),
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4]}
        | {"depths": [1, 1, 1], "key_dim": [16, 16, 16]}
        | {"down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2]]},
    ),
    "resnet": (
        *("ResNet", "image", large_picture),
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]},
    ),
    "clip": (
        *("CLIP", "CLIPModel", captioned),
        {"text_config": ENCODER | {"max_position_embeddings": 64, "projection_dim": 32}}
        | {"vision_config": IMAGE | {"projection_dim": 32}, "projection_dim": 32},
    ),
    "siglip": (
        *("Siglip", "image", picture),
        {"vision_config": IMAGE, "text_config": ENCODER},
    ),
    "vilt": ("Vilt", "ViltForQuestionAnswering", captioned, ENCODER | IMAGE),
    "whisper": (
        *("Whisper", "WhisperForConditionalGeneration", speech),
        BOTH
        | {"num_mel_bins": 20, "max_source_positions": 32, "max_target_positions": 32}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "wav2vec2": ("Wav2Vec2", "Wav2Vec2ForCTC", sound, SOUND),
    "hubert": ("Hubert", "HubertForCTC", sound, SOUND),
    "wavlm": ("WavLM", "WavLMForCTC", sound, SOUND),
    "ast": (
        *("AST", "ASTForAudioClassification", spectrum),
        {k: v for k, v in IMAGE.items() if k != "image_size"}
        | {"patch_size": 16, "max_length": 64, "num_mel_bins": 32},
    ),
    "perceiver": (
        *("Perceiver", "classify", lambda: {"inputs": words()}),
        {"vocab_size": VOCABULARY, "num_latents": 8, "d_latents": 64, "d_model": 64}
        | {"num_blocks": 1, "num_self_attends_per_block": 2, "num_self_attention_heads": 4}
        | {"num_cross_attention_heads": 4, "max_position_embeddings": 64},
    ),
}
NAMES = tuple(FAMILIES)


class Head(nn.Module):
    """A network that returns what its head says, and nothing of what lies before."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **inputs: Any) -> Tensor:
        output = self.network(**inputs)
        return output["logits_per_image" if "logits_per_image" in output else "logits"]


def build(name: str) -> Case:
    family, head, sample, sizes = FAMILIES[name]
    text_only = "Text" if name == "gemma3" else ""
    configuration = getattr(transformers, f"{family}{text_only}Config")(**sizes)
    network = getattr(transformers, f"{family}{TASKS[head]}" if head in TASKS else head)
    return Case(Head(network(configuration)), sample())
