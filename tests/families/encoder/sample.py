"""Small encoders of every model type with random weights under which every part matters."""

from __future__ import annotations

import torch

from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.encoder.fold import unfold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import Disentangled, EncoderSpec, LayerSpec

KINDS = ("bert", "roberta", "distilbert", "electra", "mpnet", "albert", "deberta-v2")
BIASED = ("mpnet", "deberta-v2")  # something is added to their scores: no fused attention
DEBERTA = {  # as DeBERTa-v3; distances from four on share buckets
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(56))]
LABELS = ("bad", "good", "odd")
UNEVEN = {
    "stream": 14,
    "pooler": 9,
    "layer.0.qk": 5,
    "layer.0.value": 3,
    "layer.0.ffn": 20,
    "layer.1.qk": 8,
    "layer.1.value": 6,
}


def make_spec(kind: str = "bert", layers: int = 2, heads: int = 2) -> EncoderSpec:
    """Return an uncompressed shape of a model type."""
    deberta = kind == "deberta-v2"
    layer = LayerSpec(heads, 8, 8, 32, (24 if deberta else 8) ** -0.5)
    return EncoderSpec(
        model_type=kind,
        vocab=len(WORDS),
        positions=40,
        type_vocab={"bert": 2, "electra": 2, "albert": 2, "roberta": 1}.get(kind, 0),
        width=8 * heads,
        layers=(layer,) if kind == "albert" else (layer,) * layers,
        pooler_width=8 * heads,
        labels=LABELS,
        embedding_size=12 if kind in ("electra", "albert") else None,
        pooler_activation={"electra": "gelu", "distilbert": "relu"}.get(kind, "tanh"),
        pad_id=0,
        position_offset=1 if kind in ("roberta", "mpnet") else 0,
        dropout=0.0,
        relative_positions=kind == "mpnet",
        repeats=layers if kind == "albert" else 1,
        position_table=not deberta,
        disentangled=Disentangled(8, 8, 40, True, True, True) if deberta else None,
    )


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
    """Return `folded` with fixed random projections, from the widths of `wide`, after its producers."""
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


def make_model(seed: int = 0) -> Encoder:
    """Return a model with fixed projections at most of its sites."""
    return project(make_encoder(make_spec().with_ranks(UNEVEN), seed), make_spec())


def make_batches(model: Encoder, count: int = 2) -> list[dict[str, torch.Tensor]]:
    """Return labelled batches."""
    batches = []
    for seed in range(count):
        batch = make_batch(8, 12, seed)
        labels = torch.arange(8) % len(model.spec.labels)
        batches.append({**batch, "labels": labels, "index": torch.arange(8) + 8 * seed})
    return batches


def tiny_classifier(kind: str, **changes):
    """Return transformers' own classifier of a model type: 60 words, 20 positions, three labels, in eval mode."""
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": 60, "num_labels": 3, "pad_token_id": 1, "max_position_embeddings": 20}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    extra = {"embedding_size": 12} if kind in ("electra", "albert") else DEBERTA if kind == "deberta-v2" else {}
    shape = {**common, **(distil if kind == "distilbert" else bert), **extra, **changes}
    config = transformers.AutoConfig.for_model(kind, **shape)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for p in model.parameters():  # make norms, biases and tables matter
        p.data.add_(0.1 * torch.randn_like(p))
    return model.eval()


def padded_ids(batch: int = 3, length: int = 9):
    """Return ids and mask (batch, length) for `tiny_classifier`, every row with more padding than the one before."""
    ids = torch.randint(2, 60, (batch, length))
    mask = torch.ones_like(ids)
    for row in range(batch):
        ids[row, length - row :] = 1
        mask[row, length - row :] = 0
    return ids, mask
