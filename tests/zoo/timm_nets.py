"""Models of timm: one or two of each family, at 32 to 64 pixels (a few need more)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import vision
from entries import CLASSES, Entry, images
from torch import nn

CONVOLUTIONAL = """
bat_resnext26ts:256 convmixer_768_32 convnext_zepto_rms convnextv2_atto cpubone_nano cs3darknet_focus_s csatv2
cspnext_tiny cspresnet50 darknet17 davit_tiny densenet121 dla34 dla46_c dpn48b eca_nfnet_l0 eca_resnext26ts
eca_vovnet39b ecaresnet26t edgenext_xx_small efficientnet_b0 efficientnet_cc_b0_4e efficientnetv2_rw_t efficientvim_m1
efficientvit_b0 ese_vovnet19b_slim fasternet_t0 fastvit_t8 fbnetv3_b focalnet_tiny_srf gcresnext26ts
gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnetv2_b0 hrnet_w18_small iformer_t
inception_next_atto inception_v3:96 lcnet_035 lcnetv2_small legacy_seresnet18 lowformer_b0 mambaout_femto mixnet_s
mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075 mobileone_s0
nf_regnet_b0 poolformer_s12 caformer_s18 pvt_v2_b0 pvt_v2_b2_li rdnet_tiny regnetx_002 regnety_002
regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet18 resnet26d resnetblur18
resnetv2_18 rexnet_100 sam2_hiera_tiny selecsls42 shvit_s1 skresnet18 starnet_s050 test_byobnet test_convnext
test_convnext2 test_efficientnet test_efficientnet_evos test_efficientnet_gn test_mambaout test_nfnet test_resnet
tiny_vit_5m_224 tresnet_m xception41p
"""
"""Name, and the size of the image where it is not 64."""

SIZED = """
botnet26t_256 cait_xxs24_224 coat_lite_tiny coat_mini coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convit_tiny
deit3_small_patch16_224 deit_tiny_distilled_patch16_224 efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224
gcvit_xxtiny gmixer_12_224 gmlp_ti16_224 halonet26t:256 hiera_tiny_224 jx_nest_tiny lambda_resnet26t levit_128s
levit_conv_128s maxvit_pico_rw_256 mobilevit_xxs mobilevitv2_050 mvitv2_tiny pit_ti_224 resmlp_12_224 sequencer2d_s
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_vit test_vit2 test_vit3
test_vit4 test_vit_relpos tnt_s_patch16_224 twins_pcpvt_small twins_svt_small visformer_tiny vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224
"""
"""The same, for models that must know the size of the image."""

NARROW = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4}
SHRUNK: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": NARROW,
    "naflexvit_base_patch16_gap": {k: v for k, v in NARROW.items() if k != "img_size"},
    "samvit_base_patch16_224": {**NARROW, "global_attn_indexes": [1]},
    "vgg11_bn": {"mlp_ratio": 0.02},
    "vit_base_patch16_siglip_224": NARROW,
}
"""Models whose smallest member is large, with what makes it small."""


def build(name: str, **changes: Any) -> nn.Module:
    """A model by its name, with random weights."""
    vision.load()
    net: nn.Module = importlib.import_module("timm").create_model(name, num_classes=CLASSES, drop_rate=0.0, **changes)
    return net


def _entry(name: str, size: int, **changes: Any) -> Entry:
    return Entry(library="timm", name=name, build=functools.partial(build, name, **changes), inputs=images(size))


def _sized(names: str) -> list[tuple[str, int]]:
    return [(name, int(size or 64)) for name, _, size in (word.partition(":") for word in names.split())]


ENTRIES = [
    *(_entry(name, size) for name, size in _sized(CONVOLUTIONAL)),
    *(_entry(name, size, img_size=size) for name, size in _sized(SIZED)),
    *(_entry(name, 64, **changes) for name, changes in SHRUNK.items()),
]
