"""CRD against formulas written down independently from its authors' code, and what its memories hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_sample import recipe_of
from methods.methods_sample import example
from torch.nn import functional as F

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.methods.base import Pair, find_method
from rmtkd_edge.methods.contrast import Contrast
from rmtkd_edge.tasks.base import find_task

ROWS, BATCH, NEGATIVES = 60, 8, 15


def reference(v1, v2, memory_v1, memory_v2, chosen, z):
    """HobbitLong/RepDistiller, crd/memory.py and crd/criterion.py: scores exp(memory . v / T) / Z of the row itself and
    its negatives, Z = mean * n of the first batch; ContrastLoss in float64, row by row; then the momentum's update."""
    total = 0.0
    for which, (anchor, memory) in enumerate(((v1, memory_v2), (v2, memory_v1))):
        scores = torch.stack([torch.exp(memory[chosen[b]] @ anchor[b] / 0.07) for b in range(len(chosen))])
        if z[which] is None:
            z[which] = scores.mean() * ROWS
        scores = scores / z[which]
        noise = (chosen.shape[1] - 1) * (1 / ROWS)
        for row in scores:
            total = total - torch.log(row[0] / (row[0] + noise + 1e-7))
            total = total - sum(torch.log(noise / (p + noise + 1e-7)) for p in row[1:])
    for memory, vectors in ((memory_v1, v1), (memory_v2, v2)):
        for b, row in enumerate(chosen[:, 0]):
            mixed = 0.5 * memory[row] + 0.5 * vectors[b]
            memory[row] = mixed / mixed.norm()
    return total / len(chosen)


def test_the_contrastive_loss_is_its_authors_and_so_are_the_memories() -> None:
    torch.manual_seed(0)
    contrast = Contrast(6, 10, ROWS, NEGATIVES)
    m1, m2, z = contrast.student_memory.double(), contrast.teacher_memory.double(), [None, None]
    for step in range(3):  # Z is of the first batch
        v1, v2 = (F.normalize(torch.randn(BATCH, 128)) for _ in range(2))
        chosen = torch.stack([torch.randperm(ROWS)[: NEGATIVES + 1] for _ in range(BATCH)])
        chosen[:, 0] = torch.arange(BATCH) + BATCH * step
        expected = reference(v1.double(), v2.double(), m1, m2, chosen, z)
        found = contrast.loss(v1, v2, chosen)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(contrast.student_memory.double(), m1, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(contrast.teacher_memory.double(), m2, rtol=1e-6, atol=1e-6)


def test_negatives_are_of_other_classes_and_differ() -> None:
    contrast = Contrast(6, 10, ROWS, NEGATIVES)
    contrast.classes.copy_(torch.arange(ROWS) % 3)
    labels = torch.tensor([0, 1, 2, 2])
    drawn = contrast.draw(labels)
    assert drawn.shape == (4, NEGATIVES)
    assert all((contrast.classes[rows] != label).all() for rows, label in zip(drawn, labels, strict=True))
    assert all(len(rows.unique()) == NEGATIVES for rows in drawn)
    contrast.classes.zero_()
    assert contrast.draw(torch.tensor([0])).shape == (1, NEGATIVES)  # all of one class


def test_a_loss_is_the_labels_and_the_contrast_of_what_the_classifier_reads(tiny_tokenizer: Any) -> None:
    case = example("crd", "resnet", tiny_tokenizer)
    pixels, labels, index = (case.batch[name] for name in ("pixel_values", "labels", "index"))
    helper: Any = case.objective.helper
    student = F.adaptive_avg_pool2d(features(case.student, pixels), 1).flatten(1)
    teacher = F.adaptive_avg_pool2d(features(case.teacher, pixels), 1).flatten(1)
    before = {name: value.clone() for name, value in helper.state_dict().items()}
    torch.manual_seed(1)
    found = case.loss()
    found.backward()
    helper.load_state_dict(before)
    torch.manual_seed(1)
    contrast = helper(student, teacher, index, labels)
    expected = F.cross_entropy(case.student(pixels), labels) + 0.8 * contrast
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert all(p.grad is not None for p in helper.parameters())  # both embeddings are trained
    assert torch.equal(helper.classes[index], labels)


def features(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    state = net.pool(F.relu(net.stem(pixels)))
    for blocks in net.stages:
        for block in blocks:
            state = block(state)
    return state


def test_rows_without_numbers_are_refused(tiny_tokenizer: Any) -> None:
    case = example("crd", "resnet", tiny_tokenizer)
    pair = Pair(find_family("resnet"), case.teacher, case.student, lambda: [case.batch])
    with pytest.raises(RecipeError, match="have no numbers"):
        find_method("crd").objective(find_task("image-classification"), recipe_of("resnet", tiny_tokenizer), pair)
