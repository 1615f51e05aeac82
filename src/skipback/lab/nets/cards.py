"""The cards of all networks: what `skipback list` prints, and what the lab may set. Pure data."""

from __future__ import annotations

from skipback.lab.nets.base import Card, Takes

_MNIST = (1, 28, 28)
_VGG_8B = ((128, 256), (256, 512), (512,), (512,))
_VGG_11B = ((128, 128, 128, 256), (256, 512), (512, 512), (512,))
_VGG_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_RESNET_18 = {"groups": ((64, 1), (128, 2), (256, 2), (512, 2)), "blocks": 2, "projected": True}
_SHAKESPEARE = 65  # characters

CARDS: dict[str, Card] = {
    "mlp": Card(
        line="Fully connected: depth x (Linear, activation), Linear",
        at="mlp:mlp",
        takes=Takes.NUMBERS,
        activation="tanh",
        sizes={
            "depth": 1,
            "width": 500,
            "batch_norm": False,
            "dropout": 0.0,
            "input_dropout": 0.0,
            "dropout_first": False,
            "norm_last": False,
            "bias": True,
            "bottleneck": None,
            "zero_init": False,
        },
        shape=_MNIST,
    ),
    "linear": Card(
        line="Deep linear network without bias, from zero (Direct-Feedback-Alignment)",
        at="mlp:linear",
        takes=Takes.NUMBERS,
        activation=None,
        sizes={"depth": 1, "width": 1000},
        shape=(10,),
    ),
    "rd": Card(
        line="Random-diagonal layer D2 R D1 with R fixed (Direct-Feedback-Alignment)",
        at="rd:rd",
        takes=Takes.NUMBERS,
        activation=None,
        shape=(100,),
    ),
    "lenet": Card(
        line="LeNet-5 with max pooling: two convolutions, three fully connected layers",
        at="lenet:lenet",
        activation="tanh",
        shape=_MNIST,
    ),
    "biotorch-lenet": Card(
        line="LeNet of BioTorch: three convolutions, two fully connected layers, 32 x 32", at="lenet:biotorch_lenet"
    ),
    "nokland-conv": Card(
        line="Conv net of Nøkland 2016 (dfa-torch): three convolutions of 5x5, two layers of 2048",
        at="nokland:nokland_conv",
        activation="tanh",
        sizes={"batch_norm": False, "batch_norm_at": None, "dropout": 0.0, "bias": True, "zero_init": False},
        rates=("the input", *(f"hidden layer {k}" for k in range(1, 6))),
    ),
    "launay-conv": Card(
        line="Conv net of Launay et al. 2019 (principled-dfa-training)",
        at="launay:launay_conv",
        activation="tanh",
        sizes={"batch_norm": False, "dropout": 0.0},
        rates=("the input", "the linear layer", "the convolutions"),
    ),
    "drtp-conv-mnist": Card(
        line="Conv net of Frenkel et al. 2021 (DRTP) for MNIST",
        at="drtp:drtp_conv",
        activation="tanh",
        sizes={"dropout": 0.0},
        shape=_MNIST,
    ),
    "drtp-conv-cifar": Card(
        line="Conv net of Frenkel et al. 2021 (DRTP) for CIFAR-10",
        at="drtp:drtp_conv",
        activation="tanh",
        sizes={"dropout": 0.0},
        fixed={"convolutions": ((64, 3), (256, 3)), "width": 2000},
    ),
    "dkp-conv": Card(line="Conv net of the direct Kolen-Pollack code (dkp-gist)", at="dkp:dkp_conv"),
    "fdfa-conv": Card(line="Conv net of Bacho and Chu 2024 (FDFA)", at="fdfa:fdfa_conv"),
    "alexnet": Card(
        line="AlexNet with batch norm at 224 x 224 (FDFA, CIFAR-100)",
        at="alexnet:alexnet",
        shape=(3, 224, 224),
        outputs=100,
    ),
    "vgg8b": Card(
        line="VGG8b of Nøkland and Eidnes 2019 (local-loss)",
        at="vgg:vgg",
        sizes={"dropout": 0.0},
        fixed={"groups": _VGG_8B, "hidden": 1024},
    ),
    "vgg11b": Card(
        line="VGG11b of Nøkland and Eidnes 2019 (local-loss)",
        at="vgg:vgg",
        sizes={"dropout": 0.0},
        fixed={"groups": _VGG_11B, "hidden": 1024},
    ),
    "vgg11": Card(line="VGG-11 with batch norm for small images", at="vgg:vgg", sizes={"dropout": 0.0}),
    "vgg16": Card(
        line="VGG-16 with batch norm for small images", at="vgg:vgg", sizes={"dropout": 0.0}, fixed={"groups": _VGG_16}
    ),
    "resnet20": Card(line="ResNet-20 of He et al. 2016 for small images, shortcut A", at="resnet:resnet"),
    "resnet56": Card(
        line="ResNet-56 of He et al. 2016 for small images, shortcut A", at="resnet:resnet", fixed={"blocks": 9}
    ),
    "resnet18": Card(line="ResNet-18 with a 3x3 stem for small images", at="resnet:resnet", fixed=_RESNET_18),
    "resnet18-imagenet": Card(
        line="ResNet-18 of He et al. 2016, 7x7 stem (ImageNet)",
        at="resnet:resnet",
        fixed={**_RESNET_18, "large": True},
        shape=(3, 224, 224),
        outputs=1000,
    ),
    "f3-transformer": Card(
        line="MNIST transformer of F3: six blocks of 512 units",
        at="f3_transformer:f3_transformer",
        activation="tanh",
        sizes={"depth": 4, "width": 512},
        shape=_MNIST,
    ),
    "vit": Card(
        line="Small vision transformer: patches of 4, class token, heads of 64",
        at="vit:vit",
        activation="gelu",
        sizes={"depth": 6, "width": 192, "dropout": 0.0},
    ),
    "mixer": Card(
        line="Small MLP-Mixer: patches of 4", at="mixer:mixer", activation="gelu", sizes={"depth": 8, "width": 128}
    ),
    "transformer-lm": Card(
        line="Causal transformer language model, pre-norm, learned positions (GPT-2)",
        at="transformer_lm:transformer_lm",
        activation="gelu",
        sizes={"depth": 4, "width": 128, "dropout": 0.0},
        takes=Takes.TOKENS,
        shape=(128,),
        outputs=_SHAKESPEARE,
        needs={"vocabulary": _SHAKESPEARE},
    ),
    "lstm": Card(
        line="LSTM language model",
        at="lstm:lstm",
        activation=None,
        sizes={"depth": 1, "width": 256, "dropout": 0.0},
        takes=Takes.TOKENS,
        shape=(128,),
        outputs=_SHAKESPEARE,
        needs={"vocabulary": _SHAKESPEARE},
    ),
    "gcn": Card(
        line="Graph convolutional network, two layers (Planetoid)",
        at="graph:gcn",
        takes=Takes.GRAPH,
        sizes={"width": 16, "dropout": 0.0},
        shape=(1433,),
        outputs=7,
    ),
    "gat": Card(
        line="Graph attention network, two layers (Planetoid)",
        at="graph:gat",
        takes=Takes.GRAPH,
        activation="elu",
        sizes={"width": 8, "dropout": 0.0},
        shape=(1433,),
        outputs=7,
    ),
    "deepfm": Card(
        line="DeepFM recommender for columns of numbers and categories (TinyDFA)",
        at="deepfm:deepfm",
        takes=Takes.COLUMNS,
        sizes={"depth": 3, "width": 400, "dropout": 0.0},
        shape=(14,),
        outputs=1,
        # the columns of Adult, the small table of this kind that is at hand
        needs={"categories": (9, 16, 7, 15, 6, 5, 2, 42)},
    ),
}
