"""Small models of transformers and torchvision as a user has them, and batches that the label can be learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

Batches = list[dict[str, Tensor]]
ROWS, TOKENS, SIDE = 32, 10, 16


@dataclass(frozen=True)
class Own:
    """A library's module, the model made of it, batches, its logits on the first one, and what else an export takes."""

    module: nn.Module
    model: Any
    batches: Batches
    reference: Tensor
    extra: dict[str, Any]


class SmallResNet(ResNet):
    """torchvision's ResNet-18, an eighth as wide."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(3, 8, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.fc = nn.BatchNorm2d(8), nn.Linear(64, classes)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        self.inplanes = 8 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 8, blocks, stride, dilate)


def small_bert(vocabulary: int, labels: int = 2) -> nn.Module:
    """Return a transformers classifier with random weights large enough that every part matters."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=labels,
    )
    return BertForSequenceClassification(config).eval()


def text_batches(vocabulary: int, count: int = 12) -> Batches:
    """Return batches of random known tokens with padding; the label is whether the first of them is an odd one."""
    generator, made = torch.Generator().manual_seed(0), []
    for _ in range(count):
        ids = torch.randint(5, vocabulary, (ROWS, TOKENS), generator=generator)
        mask = (torch.arange(TOKENS) < torch.randint(3, TOKENS + 1, (ROWS, 1), generator=generator)).long()
        made.append({"input_ids": ids * mask, "attention_mask": mask, "labels": ids[:, 0] % 2})
    return made


def image_batches(count: int = 8) -> Batches:
    """Return batches of noise, brighter for the label 1."""
    generator, made = torch.Generator().manual_seed(0), []
    for _ in range(count):
        labels = torch.randint(0, 2, (ROWS,), generator=generator)
        pixels = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) + labels[:, None, None, None]
        made.append({"pixel_values": pixels, "labels": labels})
    return made


def without(batches: Batches, *names: str) -> Batches:
    """Return the batches without some of their tensors."""
    return [{name: value for name, value in batch.items() if name not in names} for batch in batches]


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return a model's logits: it takes its inputs in their order."""
    return model(*[batch.get(item.name) for item in model.spec.inputs])


def accuracy(model: Any, batches: Batches) -> float:
    """Return the share of right answers."""
    return float(torch.stack([(logits(model, b).argmax(1) == b["labels"]).float().mean() for b in batches]).mean())
