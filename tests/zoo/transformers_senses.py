"""Images, sound, series, and texts beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from entries import CLASSES, Inputs, N
from transformers_nets import VOCABULARY, WIDTH, T, entry, tokens
from transformers_text import LAYERS

FOUR = {"hidden_sizes": [16, 32, 40, 48], "depths": [1, 1, 1, 1]}
HEADS = {**FOUR, "num_attention_heads": [1, 2, 4, 4]}
STAGES = {"num_hidden_layers": 4}
WINDOWS = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
IMAGES: dict[str, tuple[int, dict[str, Any]]] = {
    **{name: (32, {}) for name in "Beit Data2VecVision DeiT Dinov2 Dinov2WithRegisters IJepa ViT ViTMSN".split()},
    **{name: (32, {}) for name in "MobileNetV1 MobileNetV2 MobileViT SwiftFormer".split()},
    "Bit": (64, {**FOUR, "embedding_size": 32, "hidden_sizes": [32, 32, 64, 64], "num_groups": 4}),
    "ConvNext": (64, {**FOUR, **STAGES}),
    "ConvNextV2": (64, {**FOUR, **STAGES}),
    "FocalNet": (32, {"embed_dim": 16, "depths": [1, 1, 1, 1]}),
    "PoolFormer": (32, FOUR),
    "Pvt": (64, {**HEADS, "image_size": 64}),
    "PvtV2": (64, {**HEADS, "image_size": 64}),
    "RegNet": (32, {**FOUR, "embedding_size": 16, "groups_width": 8}),
    "ResNet": (32, {**FOUR, "embedding_size": 16, "layer_type": "basic"}),
    "Segformer": (64, {**HEADS, **STAGES, "decoder_hidden_size": WIDTH}),
    "Siglip": (32, {"vision_config": {}}),
    "Swin": (32, WINDOWS),
    "Swinv2": (32, WINDOWS),
}

WAVES = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "apply_spec_augment": False,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
SPECTRA = {**LAYERS, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20}
SERIES = {"num_input_channels": 3, "context_length": 32, "d_model": WIDTH}
AHEAD = {**SERIES, "prediction_length": 4}
VISION = {"vision_config": {}, "text_config": {}}


def named(**makers: Callable[[], torch.Tensor]) -> Callable[[], Inputs]:
    """Inputs by name."""
    return lambda: ((), {name: make() for name, make in makers.items()})


def normal(*shape: int) -> Callable[[], torch.Tensor]:
    """Random numbers for each sample."""
    return lambda: torch.randn(N, *shape)


def pictured() -> torch.Tensor:
    """Texts that begin with the places of an image."""
    return torch.cat([torch.full((N, 16), VOCABULARY - 1), torch.randint(3, VOCABULARY - 1, (N, 4))], 1)


def boxes() -> torch.Tensor:
    """A box for each token."""
    return torch.randint(0, 3, (N, T, 2)).repeat(1, 1, 2)


def pixels(size: int) -> Callable[[], Inputs]:
    """Images by name."""
    return named(pixel_values=normal(3, size, size))


clips, both = named(pixel_values=normal(4, 3, 32, 32)), named(input_ids=tokens, pixel_values=normal(3, 32, 32))
series, wave = named(past_values=normal(32, 3)), named(input_values=normal(400))
seen = named(input_ids=tokens, visual_feats=normal(4, WIDTH), visual_pos=lambda: torch.rand(N, 4, 4))
masked = named(pixel_values=normal(3, 32, 32), noise=lambda: torch.rand(N, 16))
SPEECH = "Data2VecAudio Hubert SEW UniSpeech Wav2Vec2 Wav2Vec2Conformer WavLM".split()

ENTRIES = [
    *(
        entry(f"{name}ForImageClassification", pixels(size), changes=changes)
        for name, (size, changes) in IMAGES.items()
    ),
    entry(
        "SegformerForSemanticSegmentation",
        pixels(64),
        False,
        {**HEADS, **STAGES, "decoder_hidden_size": WIDTH},
        classes=1,
    ),
    entry("MobileViTForSemanticSegmentation", pixels(64), False, classes=1),
    entry("GLPNForDepthEstimation", pixels(64), False, {**HEADS, "decoder_hidden_size": 16}, classes=None),
    entry("YolosForObjectDetection", pixels(32), False, {"image_size": [32, 32], "num_detection_tokens": 5}),
    entry("DetrForObjectDetection", pixels(64), False, {**LAYERS, "d_model": WIDTH, "num_queries": 5}),
    entry(
        "ViTMAEForPreTraining",
        masked,
        False,
        {
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 24,
        },
        classes=None,
    ),
    entry(
        "PerceiverForImageClassificationLearned",
        named(inputs=normal(3, 16, 16)),
        True,
        {
            "image_size": 16,
            "num_latents": 4,
            "d_latents": 32,
            "num_blocks": 2,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
        },
    ),
    entry("ImageGPTForImageClassification", named(input_ids=tokens)),
    entry("VideoMAEForVideoClassification", clips, True, {"num_frames": 4}),
    entry("TimesformerForVideoClassification", clips, True, {"num_frames": 4}),
    entry("VivitForVideoClassification", clips, True, {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    *(entry(f"{name}ForSequenceClassification", wave, True, WAVES) for name in SPEECH),
    entry("Wav2Vec2ForCTC", wave, False, WAVES),
    entry(
        "ASTForAudioClassification", named(input_values=normal(64, 16)), True, {"max_length": 64, "num_mel_bins": 16}
    ),
    entry("WhisperForAudioClassification", named(input_features=normal(16, 40)), True, SPECTRA),
    entry(
        "WhisperForConditionalGeneration",
        named(input_features=normal(16, 40), decoder_input_ids=lambda: tokens(5)),
        True,
        SPECTRA,
    ),
    entry(
        "SpeechT5ForTextToSpeech",
        named(input_ids=tokens, decoder_input_values=normal(7, 16)),
        False,
        {**LAYERS, "num_mel_bins": 16, "speech_decoder_postnet_units": 16, "speech_decoder_prenet_units": 16},
        classes=None,
    ),
    entry("CLIPModel", both, False, {**VISION, "projection_dim": 16}),
    entry("SiglipModel", both, False, VISION),
    entry("ViltForQuestionAnswering", both, False),
    entry(
        "LlavaForConditionalGeneration",
        named(input_ids=pictured, pixel_values=normal(3, 32, 32)),
        True,
        {**VISION, "image_token_index": VOCABULARY - 1, "vision_feature_layer": -1},
    ),
    entry(
        "LayoutLMForSequenceClassification",
        named(input_ids=tokens, bbox=boxes),
        True,
        {"max_2d_position_embeddings": 40},
    ),
    entry(
        "LxmertForQuestionAnswering",
        seen,
        False,
        {"visual_feat_dim": WIDTH, "l_layers": 2, "x_layers": 2, "r_layers": 2, "num_qa_labels": CLASSES},
    ),
    entry(
        "DecisionTransformerModel",
        named(
            states=normal(7, 5),
            actions=normal(7, 4),
            rewards=normal(7, 1),
            returns_to_go=normal(7, 1),
            timesteps=lambda: torch.arange(7).repeat(N, 1),
            attention_mask=lambda: torch.ones(N, 7),
        ),
        False,
        {"state_dim": 5, "act_dim": 4, "max_ep_len": 40},
        classes=None,
        pick=lambda output: output["action_preds"],
    ),
    entry("PatchTSTForClassification", series, False, {**SERIES, "num_targets": CLASSES}),
    entry("PatchTSTForPrediction", series, False, {**AHEAD, "loss": "mse"}, classes=None),
    entry("PatchTSMixerForPrediction", series, False, AHEAD, classes=None),
]
