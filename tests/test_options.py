"""Numbers and names that make no sense are one message that names the option, for every command; nothing is written."""

import pytest
from typer.testing import CliRunner

from traklens.engine.cli.main import app, in_flags
from traklens.stores.errors import StoreError, TrakLensError, UsageError

TRAIN = [
    ("--epochs", "0"),
    ("--batch-size", "0"),
    ("--checkpoints", "0"),
    ("--subset", "0"),
    ("--subset", "2"),
    ("--subset", "nan"),
    ("--subset", "0.01"),
    ("--heldout", "1"),
    ("--heldout", "nan"),
    ("--seed", "-1"),
    ("--learning-rate", "nan"),
    ("--learning-rate", "-1"),
    ("--learning-rate", "0"),
    ("--learning-rate", "inf"),
    ("--sample", "0"),
    ("--sample", "-5"),
    ("--augment", "x"),
    ("--caption-template", "{a:>99999999999}"),
    ("--model", "nothing"),
    ("--reader", "x"),
]
BUILD = [
    ("--proj-dim", "0"),
    ("--proj-dim", "-1"),
    ("--proj-dim", "1000000000000"),
    ("--damping", "-1"),
    ("--damping", "nan"),
    ("--damping", "inf"),
    ("--references", "0"),
    ("--references", "-1"),
    ("--temperature", "x"),
    ("--seed", "-1"),
    ("--batch-size", "0"),
    ("--gradients", "x"),
    ("--device", "x"),
    ("--projection", "x"),
    ("--targets", "nowhere"),
]
STORE = [
    ("query", "--top", "-1"),
    ("query", "--top", "0"),
    ("remove", "--top", "0"),
    ("remove", "--top", "-1"),
    ("remove", "--retrain", "-1"),
    ("remove", "--retrain", "1000"),
    ("report", "--without", "-1"),
]


def refused(*arguments: object) -> str:
    """What a command says that must refuse; anything but a message fails the test."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code != 0
    assert found.exception is None or isinstance(found.exception, SystemExit | TrakLensError), repr(found.exception)
    return f"{found.output} {found.exception}"


@pytest.mark.parametrize(("option", "value"), TRAIN)
def test_train_refuses(tiny_demo, tmp_path, option, value):
    out = tmp_path / "run"
    refused("train", tiny_demo / "data", "--out", out, "--epochs", 1, "--checkpoints", 1, option, value)
    assert not (out / "run.json").exists()


@pytest.mark.parametrize(("option", "value"), BUILD)
def test_build_refuses(tiny_demo, tmp_path, option, value):
    refused("build", tiny_demo / "data", "--run", tiny_demo / "run", "--store", tmp_path / "store", option, value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("command", "option", "value"), STORE)
def test_commands_on_a_store_refuse(tiny_store, tmp_path, command, option, value):
    from traklens.stores.store import open_store

    id = open_store(tiny_store).examples.id[0]
    more = ["--out", tmp_path / "page.html"] if command == "report" else []
    refused(command, tiny_store, "--id", id, *more, option, value)


def test_the_engine_names_parameters_and_the_command_line_its_options():
    for item, flag in (("top", "--top"), ("batch_size", "--batch-size"), ("dim", "--proj-dim"), ("build", "build")):
        assert in_flags(UsageError(item, "a", "b", "c")).item == flag
    assert in_flags(StoreError("top", "a", "b", "c")).item == "top"  # the name of a folder, say
