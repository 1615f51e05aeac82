"""Networks as people write them, a few units wide: look-alikes of torchvision's and Hugging Face's module trees, too.

Everything is written from the public shape of such networks (names of modules, order of calls), and imports neither.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import nets
import torch
import torch.nn.functional as F
from nets import C
from torch import Tensor, nn

V, T = 7, 5
"""Tokens of the vocabulary, and of a sequence."""


# --------------------------------------------------------------------------------------------------- convolutions


class PlainCNN(nn.Module):
    """`features`, a reshape in forward, `classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()
        )
        self.classifier = nn.Linear(80, C)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def separable(i: int, o: int) -> nn.Sequential:
    """A depthwise convolution, then a pointwise one."""
    return nn.Sequential(
        nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False),
        nn.BatchNorm2d(i),
        nn.ReLU6(inplace=True),
        nn.Conv2d(i, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU6(inplace=True),
    )


def depthwise_cnn() -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh())
    return nn.Sequential(stem, separable(4, 5), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(80, C))


class Normed(nn.Module):
    """Two convolutions with a norm behind each, and one behind the pooling."""

    def __init__(self, norm: Callable[[int, int], nn.Module], last: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, bias=False), norm(4, 6)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, bias=False), norm(6, 4)
        self.norm3, self.fc = last(6), nn.Linear(6, C)

    def forward(self, x):
        x = F.silu(self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x))))))
        return self.fc(self.norm3(x.mean((2, 3))))


class ShortcutA(nn.Module):
    """Option A of the ResNet paper: every second pixel, padded with channels of zeros; nothing to learn."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 2, self.channels - self.channels // 2))


class CifarBlock(nn.Module):
    """Functional ReLUs, and the sum inside."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.shortcut = nn.Sequential() if stride == 1 else ShortcutA(o - i)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet20(nn.Module):
    """Of the ResNet paper, section 4.2, with n = 3: three stages of three blocks; 2, 3 and 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 2, 3, 1, 1, bias=False), nn.BatchNorm2d(2)
        self.layer1, self.layer2, self.layer3 = self.stage(2, 2, 1), self.stage(2, 3, 2), self.stage(3, 4, 2)
        self.linear = nn.Linear(4, C)

    @staticmethod
    def stage(i: int, o: int, stride: int) -> nn.Sequential:
        return nn.Sequential(CifarBlock(i, o, stride), CifarBlock(o, o, 1), CifarBlock(o, o, 1))

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))


# ----------------------------------------------------------------------------------------- as torchvision's trees


class VGG(nn.Module):
    """features, avgpool, classifier; ReLUs in place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(20, 9), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(9, 8), nn.ReLU(True), nn.Linear(8, C)
        )

    def forward(self, x):
        x = self.avgpool(self.features(x))
        x = torch.flatten(x, 1)
        return self.classifier(x)


class ConvNormActivation(nn.Sequential):
    def __init__(self, i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(o), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and i == o
        self.conv = nn.Sequential(
            ConvNormActivation(i, 2 * i, 1),
            ConvNormActivation(2 * i, 2 * i, 3, stride, groups=2 * i),
            nn.Conv2d(2 * i, o, 1, bias=False),
            nn.BatchNorm2d(o),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNet(nn.Module):
    """features of nested Sequentials, pooling and a reshape as functions, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(1, 3),
            InvertedResidual(3, 4, 2),
            InvertedResidual(4, 4, 1),
            ConvNormActivation(4, 6, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, C))

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Backbone(nn.Module):
    """A whole classifier as the backbone of another, its last layer taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nets.ResNet()
        self.backbone.fc = nn.Identity()
        self.head = nn.Linear(4, C)

    def forward(self, x):
        return self.head(self.backbone(x))


# ---------------------------------------------------------------------------------------------------- transformers


class Attention(nn.Module):
    """Packed projections; `causal` hides the future."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.causal = nn.Linear(width, 3 * width), nn.Linear(width, width), causal

    def forward(self, x):
        q, k, v = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in self.c_attn(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """Patches, a class token and positions that are bare parameters, two blocks, the class token's output."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, C)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class CausalLM(nn.Module):
    """Tokens (B, T) to logits (B, T, V): the tree of GPT-2; `tied` shares the embedding with the last layer."""

    def __init__(self, tied: bool = False, width: int = 6) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block(width, causal=True) for _ in range(2))
        self.transformer = nn.ModuleDict(
            {"wte": nn.Embedding(V, width), "wpe": nn.Embedding(T, width), "h": blocks, "ln_f": nn.LayerNorm(width)}
        )
        self.lm_head = nn.Linear(width, V, bias=False)
        if tied:
            self.lm_head.weight = self.transformer.wte.weight
            nn.init.normal_(self.lm_head.weight, std=0.3)  # an embedding.s own would make large logits

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.transformer.wte(tokens) + self.transformer.wpe(positions)
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


class Decoder(nn.Module):
    """One layer that reads two blocks at once: what came before in its own stream, and the encoder's memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x, memory):
        return self.norm(x + self.attention(x, memory, memory, need_weights=False)[0])


class EncoderDecoder(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(3, width), nn.Linear(3, width)
        self.encoder, self.decoder = Block(width), Decoder(width)
        self.out = nn.Linear(width, C)

    def forward(self, x, y):
        memory = self.encoder(self.source(x))
        return self.out(self.decoder(self.target(y), memory).mean(1))


class Speech(nn.Module):
    """Whisper's encoder: two convolutions over time, a frozen table of positions, layers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, width, 3, padding=1), nn.Conv1d(width, width, 3, padding=1)
        self.embed_positions = nn.Embedding(T, width)
        self.embed_positions.requires_grad_(False)
        self.layers = nn.ModuleList([Block(width), Block(width)])
        self.layer_norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, C)

    def forward(self, x):
        h = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        h = h + self.embed_positions(torch.arange(T))
        for layer in self.layers:
            h = layer(h)
        return self.classifier(self.layer_norm(h).mean(1))


class RelativeLayer(nn.Module):
    """Attention that also looks at how far away a token is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.norm = nn.Linear(width, 3 * width, bias=False), nn.LayerNorm(width)

    def forward(self, x, relative):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) + torch.einsum("ntd,tsd->nts", q, relative)
        return self.norm(x + scores.softmax(-1) @ v)


class Relative(nn.Module):
    """SpeechT5's encoder: one table of distances (T, T, D), which is not computed from the batch, for all layers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(V, width), nn.Embedding(2 * T, width)
        self.layers = nn.ModuleList([RelativeLayer(width), RelativeLayer(width)])
        self.out = nn.Linear(width, C)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        h, relative = self.embed(tokens), self.positions(places[:, None] - places + T)
        for layer in self.layers:
            h = layer(h, relative)
        return self.out(h.mean(1))


class QueryLayer(nn.Module):
    """Queries read the memory; what they ask for is added to what they have found."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, h, memory, query):
        return self.norm(h + self.attention(h + query, memory, memory, need_weights=False)[0])


class Queries(nn.Module):
    """DETR's decoder: a learned query for each object, once for each sample, for all layers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.source, self.query = nn.Linear(3, width), nn.Embedding(4, width)
        self.layers = nn.ModuleList([QueryLayer(width), QueryLayer(width)])
        self.out = nn.Linear(width, C)

    def forward(self, x):
        memory = torch.tanh(self.source(x))
        query = self.query.weight.unsqueeze(0).repeat(len(x), 1, 1)
        h = torch.zeros_like(query)
        for layer in self.layers:
            h = layer(h, memory, query)
        return self.out(h.mean(1))


# ------------------------------------------------------------------------------------------------------- recurrent


class Recurrent(nn.Module):
    """The whole sequence is one block, and time inside of it is exact."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.rnn, self.fc = nn.Embedding(V, 4), kind(4, 5, num_layers=2, batch_first=True), nn.Linear(5, C)

    def forward(self, tokens):
        states, _ = self.rnn(self.embed(tokens))
        return self.fc(torch.tanh(states[:, -1]))


# ---------------------------------------------------------------------------------------------------------- graphs


class GraphConv(nn.Module):
    """A x W: what the neighbours of a node say, dense or sparse."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(i, o, bias=False), nn.Parameter(torch.zeros(o))

    def forward(self, x, adjacency):
        return adjacency @ self.lin(x) + self.bias


class GCN(nn.Module):
    """The nodes are the batch; the adjacency comes as second input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = GraphConv(6, 7), GraphConv(7, 5), GraphConv(5, C)

    def forward(self, x, adjacency):
        x = F.relu(self.conv1(x, adjacency))
        x = F.dropout(F.elu(self.conv2(x, adjacency)), 0.2, self.training)
        return self.conv3(x, adjacency)


class MatrixGCN(nn.Module):
    """As the first GCN code: bare weight matrices, and torch.mm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight1, self.weight2 = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(7, C))

    def forward(self, x, adjacency):
        return torch.mm(adjacency, torch.mm(torch.relu(torch.mm(adjacency, torch.mm(x, self.weight1))), self.weight2))


def adjacency(n: int) -> Tensor:
    """A ring with self-loops, each row of sum 1."""
    eye = torch.eye(n, dtype=torch.float64)
    return (eye + eye.roll(1, 0) + eye.roll(-1, 0)) / 3


# ------------------------------------------------------------------------------------- as Hugging Face's trees


class ModelOutput(OrderedDict):
    """A data class that is a dict as well, without the entries that are None; also indexed by number."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) is not None:
                self[entry.name] = getattr(self, entry.name)

    def __getitem__(self, key):
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]

    def __setattr__(self, name, value):
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self):
        return type(self), tuple(getattr(self, entry.name) for entry in fields(self))


@dataclass
class EncoderOutput(ModelOutput):
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class ClassifierOutput(ModelOutput):
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class Config:
    vocab_size: int = V
    hidden_size: int = 6
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 8
    max_position_embeddings: int = T
    num_labels: int = C
    hidden_dropout_prob: float = 0.1
    tie_word_embeddings: bool = False
    output_hidden_states: bool = False


class BertEmbeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm, self.dropout = nn.LayerNorm(config.hidden_size), nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None], persistent=False)

    def forward(self, input_ids=None):
        positions = self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + positions))


class BertSelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, width = config.num_attention_heads, config.hidden_size
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, attention_mask=None):
        q, k, v = (
            f(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores if attention_mask is None else scores + attention_mask
        context = self.dropout(scores.softmax(-1)) @ v
        return (context.transpose(1, 2).flatten(2),)


class BertOutput(nn.Module):
    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


class BertAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self, self.output = BertSelfAttention(config), BertOutput(config, config.hidden_size)

    def forward(self, hidden_states, attention_mask=None):
        return (self.output(self.self(hidden_states, attention_mask)[0], hidden_states),)


class BertIntermediate(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = nn.Linear(config.hidden_size, config.intermediate_size), nn.GELU()

    def forward(self, hidden_states):
        return self.intermediate_act_fn(self.dense(hidden_states))


class BertLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention, self.intermediate = BertAttention(config), BertIntermediate(config)
        self.output = BertOutput(config, config.intermediate_size)

    def forward(self, hidden_states, attention_mask=None):
        attended = self.attention(hidden_states, attention_mask)[0]
        return (self.output(self.intermediate(attended), attended),)


class BertEncoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states, attention_mask=None, output_hidden_states=False):
        seen = (hidden_states,)
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask)[0]
            seen += (hidden_states,)
        return EncoderOutput(last_hidden_state=hidden_states, hidden_states=seen if output_hidden_states else None)


class BertPooler(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense, self.activation = nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh()

    def forward(self, hidden_states):
        return self.activation(self.dense(hidden_states[:, 0]))


class BertModel(nn.Module):
    def __init__(self, config: Config, pooled: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings, self.encoder = BertEmbeddings(config), BertEncoder(config)
        self.pooler = BertPooler(config) if pooled else None

    def forward(self, input_ids=None, attention_mask=None, output_hidden_states=False):
        mask = None
        if attention_mask is not None:
            mask = (1.0 - attention_mask[:, None, None].to(self.embeddings.LayerNorm.weight.dtype)) * -1e4
        encoded = self.encoder(self.embeddings(input_ids=input_ids), mask, output_hidden_states=output_hidden_states)
        pooled = None if self.pooler is None else self.pooler(encoded.last_hidden_state)
        return EncoderOutput(
            last_hidden_state=encoded.last_hidden_state, pooler_output=pooled, hidden_states=encoded.hidden_states
        )


class BertForSequenceClassification(nn.Module):
    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.bert, self.dropout = BertModel(self.config), nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)

    def forward(self, input_ids=None, attention_mask=None):
        hidden = self.config.output_hidden_states
        found = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=hidden)
        return ClassifierOutput(
            logits=self.classifier(self.dropout(found.pooler_output)), hidden_states=found.hidden_states
        )


class BertForMaskedLM(nn.Module):
    """The last weight is the embedding of the words."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config(tie_word_embeddings=True)
        self.bert = BertModel(self.config, pooled=False)
        self.cls = nn.Linear(self.config.hidden_size, self.config.vocab_size)
        if self.config.tie_word_embeddings:
            self.cls.weight = self.bert.embeddings.word_embeddings.weight

    def forward(self, input_ids=None, attention_mask=None):
        return ClassifierOutput(logits=self.cls(self.bert(input_ids, attention_mask=attention_mask).last_hidden_state))


class Albert(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.out = nn.Embedding(V, 6), Block(6), nn.Linear(6, C)

    def forward(self, tokens):
        x = self.embed(tokens)
        for _ in range(3):
            x = self.layer(x)
        return self.out(x.mean(1))


# -------------------------------------------------------------------------------------------------------- the table

Inputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
"""From the number of samples to the positional and the named inputs."""


def _flat(n):
    return (nets.batch((6,), n)[0],), {}


def _image(n):
    return (nets.batch((1, 8, 8), n)[0],), {}


def _tokens(n):
    return (torch.arange(n * T).reshape(n, T) * 3 % V,), {}


def _nodes(n):
    return (nets.batch((6,), n)[0], adjacency(n)), {}


def _sparse(n):
    return (nets.batch((6,), n)[0], adjacency(n).to_sparse_coo().coalesce()), {}


def _two(n):
    return (nets.batch((4, 3), n)[0], nets.batch((5, 3), n, seed=2)[0]), {}


def _set(n):
    return (nets.batch((4, 3), n)[0],), {}


def _sound(n):
    return (nets.batch((3, T), n)[0],), {}


def _named(n):
    mask = torch.ones(n, T, dtype=torch.int64)
    mask[::2, -1] = 0
    return (), {"input_ids": _tokens(n)[0][0], "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        build: makes it.
        inputs: for so many samples.
        blocks: in order, each with the prefixes of its parameters' names.
        after: the blocks are cut after their own output.
        tokens: it returns (N, T, V), logits for every position.
        tied: parameters that more than one block owns.
        still: parameters whose gradient is zero by nature (a key's bias, which softmax takes off again).
        shifts: the same where the error comes through later layers, as a batch norm there takes a shift off again.
    """

    build: Callable[[], nn.Module]
    inputs: Inputs
    blocks: dict[str, tuple[str, ...]]
    after: bool = False
    tokens: bool = False
    tied: frozenset[str] = frozenset()
    still: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()


def _own(*names: str, head: str | tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Blocks that own what bears their name, and no more."""
    heads = (head,) if isinstance(head, str) else head
    return {**{name: (f"{name}.",) for name in names}, "head": heads}


def _normed(norm: Callable[[int, int], nn.Module], last: Callable[[int], nn.Module]) -> Case:
    blocks = {"conv1": ("conv1.", "norm1."), "conv2": ("conv2.", "norm2.", "norm3."), "head": ("fc.",)}
    return Case(lambda: Normed(norm, last), _image, blocks)


_GPT = {
    "transformer.wpe": ("transformer.wte.", "transformer.wpe."),
    "transformer.h.0": ("transformer.h.0.",),
    "transformer.h.1": ("transformer.h.1.", "transformer.ln_f."),
}
_BERT = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1")
TORCHVISION = {"conv1": ("conv1.", "bn1."), **_own("layer1.0", "layer1.1", "layer2.0", "layer2.1", head="fc.")}
_STAGES = [f"layer{stage}.{k}" for stage in (1, 2, 3) for k in range(3)]
_KEYS = ("attention.self.key.bias",)

CASES = {
    "mlp": Case(nets.mlp, _flat, _own("0", "2", head="4.")),
    "plain_cnn": Case(PlainCNN, _image, _own("features.0", "features.3", head="classifier.")),
    "depthwise_cnn": Case(
        depthwise_cnn, _image, {"0.0": ("0.",), "1.0": ("1.0.", "1.1."), "1.3": ("1.3.", "1.4."), "head": ("4.",)}
    ),
    "batchnorm": _normed(lambda c, _: nn.BatchNorm2d(c), nn.BatchNorm1d),
    "layernorm": _normed(lambda c, s: nn.LayerNorm([c, s, s]), nn.LayerNorm),
    "groupnorm": _normed(lambda c, _: nn.GroupNorm(2, c), lambda c: nn.GroupNorm(3, c)),
    "resnet20": Case(ResNet20, _image, {"conv1": ("conv1.", "bn1."), **_own(*_STAGES, head="linear.")}),
    "torchvision_resnet": Case(nets.ResNet, _image, TORCHVISION),
    "torchvision_vgg": Case(
        VGG, _image, _own("features.0", "features.3", "classifier.0", "classifier.3", head="classifier.5.")
    ),
    "torchvision_mobilenet": Case(
        MobileNet,
        _image,
        {
            "features.0.0": ("features.0.",),
            "features.1": ("features.1.",),
            "features.2": ("features.2.",),
            "features.3.0": ("features.3.",),
            "head": ("classifier.",),
        },
        shifts=("features.1.conv.3.bias", "features.2.conv.3.bias"),
    ),
    "backbone": Case(
        Backbone,
        _image,
        {f"backbone.{b}": tuple(f"backbone.{p}" for p in ps) for b, ps in TORCHVISION.items() if b != "head"}
        | {"head": ("head.",)},
    ),
    "vit": Case(
        ViT,
        _image,
        {
            "patch_embed": ("patch_embed.", "cls_token", "pos_embed"),
            "blocks.0": ("blocks.0.",),
            "blocks.1": ("blocks.1.", "norm."),
            "head": ("head.",),
        },
    ),
    "causal_lm": Case(CausalLM, _tokens, {**_GPT, "head": ("lm_head.",)}, tokens=True),
    "causal_lm_tied": Case(
        lambda: CausalLM(tied=True),
        _tokens,
        {**_GPT, "head": ("transformer.wte.",)},
        tokens=True,
        tied=frozenset({"transformer.wte.weight"}),
    ),
    "encoder_decoder": Case(EncoderDecoder, _two, _own("source", "target", "encoder", "decoder", head="out.")),
    "relative_positions": Case(
        Relative,
        _tokens,
        {
            "embed": ("embed.",),
            "layers.0": ("layers.0.", "positions."),
            "layers.1": ("layers.1.", "positions."),
            "head": ("out.",),
        },
        tied=frozenset({"positions.weight"}),
    ),
    "queries": Case(
        Queries,
        _set,
        {
            "source": ("source.",),
            "layers.0": ("layers.0.", "query."),
            "layers.1": ("layers.1.", "query."),
            "head": ("out.",),
        },
        tied=frozenset({"query.weight"}),
    ),
    "lstm": Case(lambda: Recurrent(nn.LSTM), _tokens, _own("embed", "rnn", head="fc.")),
    "gru": Case(lambda: Recurrent(nn.GRU), _tokens, _own("embed", "rnn", head="fc.")),
    "gcn": Case(GCN, _nodes, _own("conv1", "conv2", head="conv3.")),
    "gcn_sparse": Case(GCN, _sparse, _own("conv1", "conv2", head="conv3.")),
    "huggingface_bert": Case(
        BertForSequenceClassification,
        _named,
        _own(*_BERT, "bert.pooler", head="classifier."),
        still=_KEYS,
    ),
    "huggingface_hidden_states": Case(
        lambda: BertForSequenceClassification(Config(output_hidden_states=True)),
        _named,
        _own(*_BERT, "bert.pooler", head="classifier."),
        still=_KEYS,
    ),
    "huggingface_tied": Case(
        BertForMaskedLM,
        _named,
        _own(*_BERT, head=("cls.bias", "bert.embeddings.word_embeddings.")),
        tokens=True,
        tied=frozenset({"bert.embeddings.word_embeddings.weight"}),
        still=_KEYS,
    ),
}
