"""What clients make of a tokenizer that ships: the model's own types, no more tokens than it reads."""

import json

import pytest
from families.encoder.sample import make_spec
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.encoder import FAMILY

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "w0", "w1"]
SPECIAL = [("<s>", 2), ("</s>", 3)]
JOINERS = {
    "typed": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", SPECIAL),
    "untyped": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", SPECIAL),
    "bert": processors.BertProcessing(("</s>", 3), ("<s>", 2)),
    "roberta": processors.RobertaProcessing(("</s>", 3), ("<s>", 2)),
    "sequence": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", SPECIAL)]
    ),
}


def files_of(joiner, folder) -> dict[str, bytes]:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer, core.post_processor = pre_tokenizers.Whitespace(), joiner
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loaded(files: dict[str, bytes], folder):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", JOINERS)
def test_a_model_with_two_types_ships_a_tokenizer_that_gives_them(tmp_path, name):
    files = files_of(JOINERS[name], tmp_path)
    before = loaded(files, tmp_path / "before")("w0 w1", "w1")
    found = loaded(FAMILY.fit_preprocessing(make_spec("bert"), files), tmp_path / "after")("w0 w1", "w1")
    second = len(found["input_ids"]) - 2
    assert found["input_ids"] == before["input_ids"] and "token_type_ids" not in before
    assert found["token_type_ids"] == [0] * second + [1, 1]


def test_a_model_that_reads_no_types_ships_its_tokenizer_as_it_is_but_for_its_length(tmp_path):
    files, spec = files_of(JOINERS["roberta"], tmp_path), make_spec("roberta")
    fitted = FAMILY.fit_preprocessing(spec, files)
    assert fitted["tokenizer.json"] == files["tokenizer.json"]
    tokenizer = loaded(fitted, tmp_path / "after")
    assert "token_type_ids" not in tokenizer("w0", "w1") and tokenizer.model_max_length == spec.max_length == 39
    assert loaded(FAMILY.fit_preprocessing(spec, files, 24), tmp_path / "24").model_max_length == 24


def test_the_class_of_a_tokenizer_is_one_that_transformers_4_knows(tmp_path):
    fitted = FAMILY.fit_preprocessing(make_spec("bert"), files_of(JOINERS["typed"], tmp_path))
    assert json.loads(fitted["tokenizer_config.json"])["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert loaded(fitted, tmp_path / "after")("w0")["input_ids"] == [2, 4, 3]


def test_what_a_caller_left_in_the_files_does_not_ship(tmp_path):
    files, spec = files_of(JOINERS["typed"], tmp_path), make_spec("bert")
    tokenizer = loaded(files, tmp_path / "left")
    tokenizer.backend_tokenizer.enable_truncation(7, stride=2)
    tokenizer.backend_tokenizer.enable_padding(direction="left", length=7, pad_token="<pad>")
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path / "left")
    files = {path.name: path.read_bytes() for path in (tmp_path / "left").iterdir()}
    settings = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = json.dumps(
        {**settings, "max_length": 7, "stride": 2, "local_files_only": True, "name_or_path": "/home/me"}
    ).encode()
    fitted = FAMILY.fit_preprocessing(spec, files, 24)
    assert not {"max_length", "stride", "local_files_only", "name_or_path"} & set(
        json.loads(fitted["tokenizer_config.json"])
    )
    found = loaded(fitted, tmp_path / "after")(["w0", "w0 " * 50], truncation=True, padding=True)
    assert len(found["input_ids"][0]) == 24 and found["attention_mask"][0] == [1] * 3 + [0] * 21
    core = Tokenizer.from_str(fitted["tokenizer.json"].decode())
    assert [len(row.ids) for row in core.encode_batch(["w0", "w0 " * 50])] == [24, 24]
    assert core.encode("w0").attention_mask == [1] * 3


def test_files_that_are_no_json_are_refused(tmp_path):
    for content in (b"{", b"[]"):
        with pytest.raises(RunDirError, match=r"tokenizer\.json of the tokenizer"):
            FAMILY.fit_preprocessing(make_spec("bert"), {"tokenizer.json": content})
