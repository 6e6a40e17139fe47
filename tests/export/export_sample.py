"""Small encoders of every model type, a tokenizer, and a run whose compress stage is done; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rmtkd_edge.families.encoder.module import Encoder, unfold
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, list_sites, with_ranks
from rmtkd_edge.families.store import save_model
from rmtkd_edge.config.recipe import parse_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks.text_classification import Split, TextTask

KINDS = ("bert", "roberta", "distilbert", "electra")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(56))]
LABELS = ("bad", "good", "odd")
UNEVEN = {
    "stream": 14,
    "head": 9,
    "layer.0.qk": 5,
    "layer.0.value": 3,
    "layer.0.ffn": 20,
    "layer.1.qk": 8,
    "layer.1.value": 6,
}


def make_spec(kind: str = "bert", layers: int = 2, heads: int = 2) -> EncoderSpec:
    """Return an uncompressed shape of a model type."""
    layer = LayerSpec(heads, 8, 8, 32, 8**-0.5)
    types = {"bert": 2, "electra": 2, "roberta": 1, "distilbert": 0}[kind]
    return EncoderSpec(
        kind, len(WORDS), 40, types, 8 * heads, (layer,) * layers, 8 * heads, LABELS,
        embedding=12 if kind == "electra" else None,
        head_activation={"bert": "tanh", "roberta": "tanh", "electra": "gelu", "distilbert": "relu"}[kind],
        pad_id=0, position_offset=1 if kind == "roberta" else 0, dropout=0.0,
    )  # fmt: skip


def make_encoder(spec: EncoderSpec, seed: int = 0) -> Encoder:
    """Return an encoder with random weights under which every part matters."""
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder(spec).eval()
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            scale = 0.3 if p.ndim == 1 or "embeddings" in name else p.shape[-1] ** -0.5
            p.copy_(scale * torch.randn(p.shape, generator=generator) + ("norm" in name and name.endswith("weight")))
    return encoder


def project(folded: Encoder, wide: EncoderSpec, seed: int = 0) -> Encoder:
    """Return `folded` with fixed random projections, from the widths of `wide`, behind its producers."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for site, narrow in zip(list_sites(wide), list_sites(folded.spec), strict=True):
        if narrow.width < site.width and not narrow.latent:
            shape = (site.width, narrow.width)
            blocks = [
                torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0].T
                for _ in range(site.heads)
            ]
            found[site.name] = torch.block_diag(*blocks)
    return unfold(folded, found)


def make_batch(batch: int = 4, length: int = 11, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch whose rows have different lengths; the last one is nearly all padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, len(WORDS), (batch, length), generator=generator)
    mask, types = torch.ones_like(ids), torch.randint(0, 2, ids.shape, generator=generator)
    for row in range(batch):
        mask[row, max(1, length - row * length // max(1, batch - 1)) :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the words w0 to w55."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def make_task(rows: int = 24) -> TextTask:
    """Return a task of random pairs of texts."""
    rng, tokenizer = np.random.default_rng(0), make_tokenizer()
    texts = [tuple(" ".join(rng.choice(WORDS[4:], rng.integers(1, 9))) for _ in range(2)) for _ in range(rows)]
    encoded = tokenizer(*(list(column) for column in zip(*texts, strict=True)), return_token_type_ids=True)
    split = Split(encoded["input_ids"], encoded["token_type_ids"], rng.integers(0, 3, rows), texts)
    return TextTask("toy", list(LABELS), split, split)


def make_run(path, **export) -> Run:
    """Return a run whose compress stage is done: a teacher and a compressed model with its projections."""
    recipe = parse_recipe({
        "model": {"source": "scratch"}, "task": {"name": "toy", "text": ["a", "b"], "max_length": 24},
        "export": {"verify_rows": 8, "max_accuracy_drop": 1.0, **export},
    }, "recipe")  # fmt: skip
    run, wide = Run.create(path, recipe.to_toml(), 0), make_spec()
    folded = make_encoder(with_ranks(wide, UNEVEN), 1)
    save_model(run, "compress/teacher", make_encoder(wide))
    save_model(run, "compress/best", project(folded, wide), accuracy=0.5)
    make_tokenizer().save_pretrained(run.path_of("compress/tokenizer"))
    run.record("compress/tokenizer")
    run.mark("compress", "done", data=None)
    return run
