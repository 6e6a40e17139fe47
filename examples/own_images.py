"""From a folder of your own images to a small ONNX image classifier: train a torchvision ResNet, then compress it.

    python examples/own_images.py --data my-images/ --out out/images      # my-images/CLASS/*.png
    python examples/own_images.py --tiny

The same from the command line, with a recipe:

    rmtkd-edge compress my.toml --data my-images/ --out runs/mine      # my.toml: a copy of models/custom-images.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import made_up
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

import rmtkd_edge as rk


def read(folder: str, side: int) -> tuple[Dataset[Any], int]:
    """Return the images of class folders, normalised as torchvision's ImageNet weights expect, and their classes."""
    from torchvision import datasets, transforms

    steps = [
        transforms.Resize((side, side)),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    found = datasets.ImageFolder(folder, transforms.Compose(steps))
    return found, len(found.classes)


def collate(rows: list[tuple[torch.Tensor, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch as rmtkd_edge reads it: a dict of tensors."""
    pixels, labels = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(pixels), "labels": torch.tensor([int(label) for label in labels])}


def train(model: Any, loader: Any, epochs: int) -> None:
    """Train the teacher, the plain way."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in loader:
            loss = F.cross_entropy(model(batch["pixel_values"]), batch["labels"])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        print(f"teacher, epoch {epoch + 1}: loss {total / len(loader):.3f}")
    model.eval()


@torch.no_grad()
def accuracy(model: Any, loader: Any) -> float:
    """Return the accuracy."""
    model.eval()
    return torch.cat([model(b["pixel_values"]).argmax(1) == b["labels"] for b in loader]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with one folder of images a class")
    parser.add_argument("--side", type=int, default=224, help="pixels a side that images are resized to")
    parser.add_argument("--out", default="out/images")
    parser.add_argument("--tiny", action="store_true", help="made-up images, in seconds")
    args = parser.parse_args()

    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(0)
    if args.tiny:
        data: Dataset[Any] = TensorDataset(*made_up.images(240))
        classes = 2
        resnet = resnet18(num_classes=classes)
    else:
        data, classes = read(args.data, args.side)
        resnet = resnet18(weights=ResNet18_Weights.DEFAULT)
        resnet.fc = torch.nn.Linear(resnet.fc.in_features, classes)

    splits = random_split(data, [0.8, 0.1, 0.1], torch.Generator().manual_seed(0))
    train_rows, validation, test = (DataLoader(s, 16, shuffle=s is splits[0], collate_fn=collate) for s in splits)
    train(resnet, train_rows, epochs=1 if args.tiny else 10)

    teacher = rk.from_torchvision(resnet, image_size=32 if args.tiny else args.side)
    spectra = rk.analyse(teacher, train_rows)
    plan = rk.plan(spectra, reduction=0.5, align=8)
    student = rk.compress(teacher, plan, train_rows)
    steps = 2 if args.tiny else 500
    student = rk.distil(student, teacher, train_rows, evaluate=lambda m: accuracy(m, validation), steps=steps)
    print(f"{accuracy(student, test):.3f}, original {accuracy(teacher, test):.3f} (test)")

    folder = Path(rk.export(student, args.out, precision=("fp32",)))
    if not args.tiny:
        print(rk.profile(folder, on="local-cpu", quick=True))
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.rglob('*') if path.is_file()))}")


if __name__ == "__main__":
    main()
