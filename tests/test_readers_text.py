"""Tables of text: every form is read alike, splits by their files, and what cannot be used is listed."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traklens.engine.data import load_again, load_dataset
from traklens.engine.tasks.reading import DataOptions
from traklens.engine.tasks.registry import task_named
from traklens.stores.errors import DataError, UsageError
from traklens.stores.specs import FieldSpec

FIELDS = (FieldSpec("text", "text"), FieldSpec("label", "label"))
ROWS = [("a fine film", "good"), ("a dull film\twith a tab", "bad"), ('"quoted" and, commas', "good")]


def _load(path, fields=FIELDS, **options):
    return load_dataset(path, fields=fields, **options)


def _pairs(dataset):
    return [(example.fields["text"], example.fields["label"]) for example in dataset.examples]


def _write(form, folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    objects = [{"text": text, "label": label} for text, label in rows]
    if form == "csv":
        cells = [["text", "label"], *rows]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
        (folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    elif form == "json":
        (folder / "reviews.json").write_text(json.dumps(objects))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), folder / "reviews.parquet")
    else:  # as Hugging Face's datasets saves to disk
        table = pa.Table.from_pylist([{"text": t, "label": int(label == "good")} for t, label in rows])
        features = {"text": {"_type": "Value"}, "label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (folder / "train").mkdir()
        file = str(folder / "train" / "data-00000-of-00001.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (folder / "train" / "dataset_info.json").write_text("{}")
        (folder / "train" / "state.json").write_text("{}")
        (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return folder


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet", "saved to disk"])
def test_every_form_of_a_table_gives_the_same_examples(form, tmp_path):
    rows = [(text.replace("\t", " "), label) for text, label in ROWS]
    found = _load(_write(form, tmp_path / "data", rows))
    assert _pairs(found) == rows
    assert found.account.classes == ("bad", "good")
    assert not found.problems.problems


def test_files_named_as_splits_are_the_splits_and_others_are_passed_over(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\none\ta\ntwo\tb\n")
    (tmp_path / "heldout.tsv").write_text("text\tlabel\nthree\ta\n")
    (tmp_path / "queries.tsv").write_text("text\tlabel\nfour\ta\n")
    found = _load(tmp_path)
    assert [(e.fields["text"], e.split) for e in found.examples] == [
        ("three", "heldout"),
        ("one", "train"),
        ("two", "train"),
    ]
    assert found.account.passed_over == ("queries.tsv",)


def test_a_file_that_stands_alone_is_no_split_unless_a_column_says_so(tmp_path):
    (tmp_path / "test.tsv").write_text("text\tlabel\none\ta\ntwo\tb\n")
    assert {example.split for example in _load(tmp_path).examples} == {None}
    (tmp_path / "test.tsv").write_text("text\tlabel\tsplit\none\ta\ttest\ntwo\tb\ttrain\n")
    assert [example.split for example in _load(tmp_path).examples] == ["heldout", "train"]


def test_what_is_no_text_is_listed_with_its_line(tmp_path):
    (tmp_path / "a.tsv").write_bytes(
        b"text\tlabel\nfine\tgood\n\tgood\nno label\t\nb\xe9d\tgood\nfine\tgood\none\ttwo\tthree\n"
    )
    found = _load(tmp_path)
    assert _pairs(found) == [("fine", "good")]
    counts = found.problems.counts()
    assert counts == {"no text": 1, "no label": 1, "not text": 1, "duplicate example": 1, "row of another length": 1}
    assert any("line 3 of a.tsv" in problem.item for problem in found.problems.problems)


def test_the_same_text_with_another_label_is_another_example_of_its_group(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\nfine\tgood\nfine\tbad\n")
    one, two = _load(tmp_path).examples
    assert one.id != two.id
    assert one.group == two.group


def test_columns_can_be_named_and_a_missing_one_is_asked_for(tmp_path):
    (tmp_path / "a.tsv").write_text("words\tmood\tid\nfine\tgood\t7\ndull\tbad\t8\n")
    task = task_named("text_classifier")
    with pytest.raises(DataError, match=r"columns words, mood, id.*--text-column"):
        DataOptions().load(tmp_path, task)
    options = DataOptions(text_column="words", label_column="mood")
    found = options.load(tmp_path, options.task(task))
    assert _pairs(found) == [("fine", "good"), ("dull", "bad")]
    assert found.examples[0].attributes == {"id": "7"}
    again = load_dataset(tmp_path, fields=found.spec.fields, reader=found.spec.reader)
    assert [e.id for e in again.examples] == [e.id for e in found.examples]


def test_two_columns_of_text_keep_their_names(tmp_path):
    (tmp_path / "a.tsv").write_text("question\tsentence\tlabel\nwho?\tme.\tyes\nwhy?\tno.\tno\n")
    options = DataOptions(text_column=["question", "sentence"])
    task = options.task(task_named("text_classifier"))
    found = options.load(tmp_path, task)
    assert [field.name for field in task.fields] == ["question", "sentence", "label"]
    assert found.examples[0].fields == {"question": "who?", "sentence": "me.", "label": "yes"}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("text_classifier", {"text_column": ["a", "b", "c"]}),
        ("text_classifier", {"input_column": "a"}),
        ("clip", {"target_column": "a"}),
        ("image_classifier", {"text_column": ["a", "b"]}),
        ("causal_lm", {"label_column": "a"}),
    ],
)
def test_an_option_that_a_task_has_no_field_for_is_refused(task, options):
    with pytest.raises(UsageError, match="column"):
        DataOptions(**options).task(task_named(task))


def test_lists_in_further_columns_are_kept_as_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "facts": [["x", "is", "y"]], "n": 3}\n')
    found = _load(tmp_path, FIELDS[:1])
    assert found.examples[0].attributes == {"facts": '[["x", "is", "y"]]', "n": "3"}


@pytest.mark.realdata
def test_the_real_tables_are_read_whole(real_data):
    sst2 = _load(real_data / "sst2")
    assert sum(example.split == "heldout" for example in sst2.examples) == 872
    assert sst2.account.classes == ("negative", "positive")
    facts = _load(real_data / "webnlg_facts", FIELDS[:1])
    assert len(facts.examples) + sum(facts.problems.counts().values()) == 12_193
    assert facts.account.passed_over == ("queries.jsonl",)


def test_one_file_of_several_in_a_folder_is_read_again_alone(tmp_path):
    for name in ("train", "queries"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(4)))
    first = load_dataset(tmp_path / "queries.jsonl", fields=(FieldSpec("text", "text"),), sample=3)
    again = load_again(tmp_path, first.spec)
    assert again.spec.fingerprint == first.spec.fingerprint
    assert load_again(tmp_path / "queries.jsonl", first.spec).spec.fingerprint == first.spec.fingerprint
    whole = load_dataset(tmp_path, fields=(FieldSpec("text", "text"),))
    assert whole.spec.file == ""
    assert load_again(tmp_path, whole.spec).spec.fingerprint == whole.spec.fingerprint
