"""timm's networks: the smallest of each family, with small images where the family takes them.

Those that end in features get a classifier: what a network returns cannot lose channels.
"""

import torch

from benchmarks.coverage_models import Case
from benchmarks.coverage_models import torchvision_ops as torchvision_ops  # before torchvision

import timm  # isort: skip

SIZES = {  # of images -> networks
    128: (
        "resnet10t resnet18 resnetblur18 ecaresnet26t skresnet18 legacy_seresnet18 resnest14d "
        "res2net50_26w_4s resnetv2_18 resnetv2_50x1_bit regnetx_002 regnety_002 regnetz_005 "
        "resnext50_32x4d densenet121 rdnet_tiny dla46_c dpn48b vgg11_bn vovnet39a "
        "ese_vovnet19b_slim_dw hrnet_w18_small cspresnet50 cs3darknet_s cspnext_tiny darknet17 "
        "efficientnet_b0 efficientnet_lite0 efficientnet_b0_gn mobilenetv2_100 mnasnet_small "
        "mobilenetv3_small_100 mobilenetv4_conv_small_035 lcnet_100 fbnetv3_b hardcorenas_a "
        "ghostnet_050 ghostnetv2_100 ghostnetv3_050 mobilenetv5_base rexnet_100 repghostnet_050 "
        "repvit_m0_9 repvgg_a0 mobileone_s0 selecsls42 tresnet_m lcnetv2_small starnet_s050 "
        "shvit_s1 fasternet_t0 hgnet_tiny hgnetv2_b0 inception_v3 inception_v4 "
        "inception_resnet_v2 legacy_xception xception41 nasnetalarge pnasnet5large nf_resnet26 "
        "eca_nfnet_l0 nf_regnet_b0 convmixer_768_32 csatv2 convnext_atto convnextv2_atto "
        "inception_next_atto mambaout_femto poolformer_s12 poolformerv2_s12 convformer_s18 "
        "caformer_s18 focalnet_tiny_srf davit_tiny pvt_v2_b0 pvt_v2_b2_li hieradet_small "
        "naflexvit_base_patch16_gap qwen3_vit_88m tiny_vit_5m_224 mobilevit_xxs mobilevitv2_050 "
        "edgenext_xx_small efficientvit_b0 efficientvim_m1 fastvit_t8 nextvit_small lowformer_b0 "
        "iformer_t cpubone_nano lambda_resnet26t gcresnext26ts"
    ),
    160: "test_vit_relpos",
    224: (
        "swiftformer_xs mixer_s32_224 gmixer_12_224 gmlp_ti16_224 resmlp_12_224 sequencer2d_s "
        "vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 "
        "eva02_tiny_patch14_224 vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 "
        "beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny coat_tiny convit_tiny levit_128s "
        "levit_conv_128s pit_ti_224 nest_tiny tnt_s_patch16_224 twins_pcpvt_small twins_svt_small "
        "volo_d1_224 xcit_nano_12_p16_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 "
        "swin_s3_tiny_224 gcvit_xxtiny hiera_tiny_224 mvitv2_tiny samvit_base_patch16_224 "
        "vit_tiny_r_s16_p8_224 vitamin_small_224 visformer_tiny efficientformer_l1 "
        "efficientformerv2_s0 efficientvit_m0 coatnet_pico_rw_224"
    ),
    240: "crossvit_tiny_240 flexivit_small",
    256: (
        "swinv2_tiny_window8_256 maxvit_pico_rw_256 botnet26t_256 halonet26t bat_resnext26ts "
        "eca_botnext26ts_256"
    ),
}
SIZE = {name: size for size, names in SIZES.items() for name in names.split()}
NAMES = tuple(SIZE)


def build(name: str) -> Case:
    model = timm.create_model(name)
    if not model.num_classes:
        model = timm.create_model(name, num_classes=100)
    for module in model.modules():  # a graph has no stochastic depth, as it has no dropout
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return Case(model, torch.randn(2, 3, SIZE[name], SIZE[name]))
