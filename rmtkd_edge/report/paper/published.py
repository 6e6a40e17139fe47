"""Table I of the paper as it is printed; nothing here was measured by this package."""

from __future__ import annotations

SOURCE = (
    "D. Ettori, N. Darabi, S. Senthilkumar, A. R. Trivedi: RMT-KD: Random Matrix Theoretic Causal Knowledge "
    "Distillation, Table I"
)
TABLE: tuple[tuple[str, str, float, float], ...] = (  # model, method, reduction and change of accuracy in percent
    ("BERT-base (GLUE)", "RMT-KD", 80.9, 1.8),
    ("BERT-base (GLUE)", "DistilBERT", 42.7, 0.2),
    ("BERT-base (GLUE)", "Theseus", 48.3, 0.6),
    ("BERT-base (GLUE)", "PKD", 40.5, -1.0),
    ("BERT-tiny (GLUE)", "RMT-KD", 58.8, 1.4),
    ("BERT-tiny (GLUE)", "DistilBERT", 54.8, 0.4),
    ("BERT-tiny (GLUE)", "Theseus", 53.0, 0.1),
    ("BERT-tiny (GLUE)", "PKD", 50.1, -0.8),
    ("ResNet-50 (CIFAR-10)", "RMT-KD", 47.7, 0.7),
    ("ResNet-50 (CIFAR-10)", "AT", 42.2, 0.4),
    ("ResNet-50 (CIFAR-10)", "FitNet", 40.6, 0.2),
    ("ResNet-50 (CIFAR-10)", "CRD", 45.4, 0.6),
)
