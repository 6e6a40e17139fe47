"""The contrastive loss of CRD: embeddings of two models, and memories of every row that negatives are drawn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIMENSIONS = 128
TEMPERATURE = 0.07
MOMENTUM = 0.5  # share of the old embedding that stays
TINY = 1e-7
UNKNOWN = -1  # class of a row that was not seen yet


class Contrast(nn.Module):
    """Embeddings of student and teacher, and what is remembered of every row: its last embeddings and its class.

    A row that was not seen yet has random embeddings and no class, so that it may be a negative of any row.

    Attributes:
        scale: of the scores against the student's and the teacher's memory, taken from the first batch; 0 before it.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    classes: Tensor
    scale: Tensor

    def __init__(self, student: int, teacher: int, rows: int, negatives: int) -> None:
        super().__init__()
        self.negatives = max(1, negatives)
        self.student, self.teacher = nn.Linear(student, DIMENSIONS), nn.Linear(teacher, DIMENSIONS)
        bound = (3 / DIMENSIONS) ** 0.5
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(rows, DIMENSIONS).uniform_(-bound, bound))
        self.register_buffer("classes", torch.full((rows,), UNKNOWN))
        self.register_buffer("scale", torch.zeros(2))

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of features (B, d) of both models for rows `index` of these classes, and remember them."""
        self.classes[index] = labels
        drawn = torch.cat([index[:, None], self.draw(labels)], 1)  # (B, 1 + negatives): the row itself comes first
        return self.loss(F.normalize(self.student(student)), F.normalize(self.teacher(teacher)), drawn)

    def loss(self, student: Tensor, teacher: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss of embeddings (B, D) against the remembered rows `drawn`, and remember the first of them."""
        total = student.new_zeros(())
        anchors = ((student, self.teacher_memory), (teacher, self.student_memory))
        for i, (anchor, memory) in enumerate(anchors):
            scores = (torch.einsum("bkd,bd->bk", memory[drawn], anchor) / TEMPERATURE).exp()
            if self.scale[i] == 0:
                self.scale[i] = scores.detach().mean() * len(memory)
            total = total + noise_contrast(scores / self.scale[i].clone(), len(memory))
        with torch.no_grad():
            for anchor, memory in ((student, self.student_memory), (teacher, self.teacher_memory)):
                kept = MOMENTUM * memory[drawn[:, 0]] + (1 - MOMENTUM) * anchor
                memory[drawn[:, 0]] = F.normalize(kept)
        return total

    def draw(self, labels: Tensor) -> Tensor:
        """Return random rows (B, negatives) of other classes, none twice for a row where there are enough."""
        drawn = []
        for label in labels:
            others = (self.classes != label).nonzero().flatten()
            if len(others) == 0:  # every row is of one class
                others = torch.arange(len(self.classes), device=labels.device)
            order = torch.randperm(len(others))[: self.negatives]
            if len(order) < self.negatives:
                order = torch.randint(len(others), (self.negatives,))
            drawn.append(others[order.to(others.device)])
        return torch.stack(drawn)


def noise_contrast(scores: Tensor, rows: int) -> Tensor:
    """Return -[log(P+ / (P+ + m Pn)) + sum over negatives of log(m Pn / (P- + m Pn))], mean over rows of (B, 1 + m).

    m negatives are drawn at the probability Pn = 1 / rows each; the row's own score comes first.
    """
    noise = (scores.shape[1] - 1) / rows
    own, others = scores[:, 0], scores[:, 1:]
    return -((own / (own + noise + TINY)).log() + (noise / (others + noise + TINY)).log().sum(1)).mean()
