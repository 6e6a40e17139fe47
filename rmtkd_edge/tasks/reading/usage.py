"""How the Hugging Face hub knows a task, and code that uses an exported folder, by client: for the model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TEXT_ONNXRUNTIME = """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = $folder
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{folder}/$file", providers=["CPUExecutionProvider"])
rows = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
inputs = {item.name: rows[item.name].astype(np.int64) for item in session.get_inputs()}
(logits,) = session.run(None, inputs)
"""
TEXT_OPTIMUM = """\
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

folder = $folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name="$name")
logits = model(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")).logits
"""
TEXT_JAVASCRIPT = """\
import { AutoModelForSequenceClassification, AutoTokenizer } from "@huggingface/transformers";

const tokenizer = await AutoTokenizer.from_pretrained("$repo");
const model = await AutoModelForSequenceClassification.from_pretrained("$repo", { dtype: "$dtype" });
const inputs = tokenizer(["a text"], { PAIRpadding: true, truncation: true });
const { logits } = await model(inputs); // a text that is too long loses its closing token here: shorten it before
"""
TOKEN_OPTIMUM = """\
from optimum.onnxruntime import ORTModelForTokenClassification
from transformers import AutoTokenizer, pipeline

folder = $folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = ORTModelForTokenClassification.from_pretrained(folder, subfolder="onnx", file_name="$name")
entities = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")("a text")
"""
TOKEN_JAVASCRIPT = """\
import { pipeline } from "@huggingface/transformers";

const label = await pipeline("token-classification", "$repo", { dtype: "$dtype" });
console.log(await label("a text"));
"""
EMBEDDING_PYTHON = """\
from sentence_transformers import SentenceTransformer

options = {"file_name": "$file", "provider": "CPUExecutionProvider"}
model = SentenceTransformer($folder, backend="onnx", model_kwargs=options)
embeddings = model.encode(["a text"])
"""
EMBEDDING_JAVASCRIPT = """\
import { AutoModel, AutoTokenizer } from "@huggingface/transformers";

const tokenizer = await AutoTokenizer.from_pretrained("$repo");
const model = await AutoModel.from_pretrained("$repo", { dtype: "$dtype" });
const inputs = tokenizer(["a text"], { padding: true, truncation: true });
const { sentence_embedding } = await model(inputs); // pooled and normalised by the graph
"""
OWN = """\
import rmtkd_edge

model = rmtkd_edge.load($folder, precision="$precision")  # checks every hash first
ANSWER = model.predict(ITEMS).labels
"""
IMAGE_ONNXRUNTIME = """\
import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor

folder = $folder
processor = AutoImageProcessor.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{folder}/$file", providers=["CPUExecutionProvider"])
pixels = processor([Image.open("picture.png").convert("RGB")], return_tensors="np")["pixel_values"]
(logits,) = session.run(None, {"pixel_values": pixels})
"""
IMAGE_OPTIMUM = """\
from optimum.onnxruntime import ORTModelForImageClassification
from PIL import Image
from transformers import AutoImageProcessor

folder = $folder
processor = AutoImageProcessor.from_pretrained(folder)
model = ORTModelForImageClassification.from_pretrained(folder, subfolder="onnx", file_name="$name")
logits = model(**processor([Image.open("picture.png").convert("RGB")], return_tensors="pt")).logits
"""
IMAGE_JAVASCRIPT = """\
import { pipeline } from "@huggingface/transformers";

const classify = await pipeline("image-classification", "$repo", { dtype: "$dtype" });
console.log(await classify("picture.png"));
"""


@dataclass(frozen=True)
class Client:
    """How to use an exported folder in one program.

    Attributes:
        language: of the code, as Markdown names it.
        code: to be filled in are `$folder` (an expression in Python), `$repo`, `$file`, its `$name`, `$precision` and
            `$dtype`.
    """

    title: str
    language: str
    code: str


@dataclass(frozen=True)
class HubTask:
    """What the Hugging Face hub and transformers call a task.

    Attributes:
        problem_type: in config.json, None where transformers has no name for it.
        clients: gives, for a number of text columns, how the folder is used.
    """

    pipeline_tag: str
    problem_type: str | None
    clients: Callable[[int], tuple[Client, ...]]


def text_clients(columns: int, meaning: str = "", answer: str = "labels") -> tuple[Client, ...]:
    """Return the code for a text, or for a pair of texts where there are two columns.

    Args:
        meaning: of the logits, as a comment; the largest is the label when left out.
        answer: what a prediction is called.
    """
    python, js = (f"{sign} {meaning}\n" if meaning else "" for sign in ("#", "//"))
    texts, pair, items = '["a text"]', "", '["a text"]'
    if columns == 2:
        texts, items = '["a text"], ["its pair"]', '[("a text", "its pair")]'
        pair = 'text_pair: ["its pair"], return_token_type_ids: true, '  # few of its tokenizers give them unasked
    return (
        Client("onnxruntime", "python", TEXT_ONNXRUNTIME.replace("TEXTS", texts) + python),
        Client("Optimum", "python", TEXT_OPTIMUM.replace("TEXTS", texts) + python),
        Client("transformers.js", "js", TEXT_JAVASCRIPT.replace("PAIR", pair) + js),
        Client("rmtkd-edge", "python", OWN.replace("ITEMS", items).replace("ANSWER", answer)),
    )


def token_clients(columns: int) -> tuple[Client, ...]:
    """Return the code for the labels of a text's words."""
    meaning = "# (1, tokens, labels): the first token of a word tells its label\n"
    return (
        Client("onnxruntime", "python", TEXT_ONNXRUNTIME.replace("TEXTS", '["a text"]') + meaning),
        Client("Optimum", "python", TOKEN_OPTIMUM),
        Client("transformers.js", "js", TOKEN_JAVASCRIPT),
        Client("rmtkd-edge", "python", OWN.replace("ITEMS", '["a text"]').replace("ANSWER", "labels")),
    )


def embedding_clients(columns: int) -> tuple[Client, ...]:
    """Return the code for the embedding of a text."""
    lines = TEXT_ONNXRUNTIME.replace("TEXTS", '["a text"]').splitlines(keepends=True)
    run = 'embeddings = session.run(["sentence_embedding"], inputs)[0]\n'
    own = OWN.replace("ITEMS", '["a text"]').replace("ANSWER", "embeddings").replace(".labels", ".outputs")
    return (
        Client("onnxruntime", "python", "".join([*lines[:-1], run])),
        Client("sentence-transformers", "python", EMBEDDING_PYTHON),
        Client("transformers.js", "js", EMBEDDING_JAVASCRIPT),
        Client("rmtkd-edge", "python", own),
    )


def image_clients(columns: int) -> tuple[Client, ...]:
    """Return the code for an image."""
    return (
        Client("onnxruntime", "python", IMAGE_ONNXRUNTIME),
        Client("Optimum", "python", IMAGE_OPTIMUM),
        Client("transformers.js", "js", IMAGE_JAVASCRIPT),
        Client("rmtkd-edge", "python", OWN.replace("ITEMS", '["picture.png"]').replace("ANSWER", "labels")),
    )
