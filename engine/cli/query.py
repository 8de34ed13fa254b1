"""`traklens query` and `traklens info`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from traklens.engine.cli.console import AsJson, StoreDir, facts_table, results
from traklens.engine.cli.tasks import OwnTask, name_task
from traklens.stores.errors import UsageError


def query(
    store: StoreDir,
    id: Annotated[str | None, typer.Option(help="Id of a stored example.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image file of an example that is not stored.")] = None,
    caption: Annotated[str | None, typer.Option(help="Its caption; the nearest stored one if not given.")] = None,
    label: Annotated[str | None, typer.Option(help="Its label; what the models take it for if not given.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text that is not stored; twice where examples are pairs of texts.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Input or beginning for a language model.")] = None,
    answer: Annotated[str | None, typer.Option(help="Its answer; what the models answer if not given.")] = None,
    span: Annotated[
        str | None, typer.Option(help="START:END, the characters of the answer that are asked about.")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Second caption or answer: why the first rather than this?")
    ] = None,
    contrast_label: Annotated[str | None, typer.Option(help="Second label, likewise.")] = None,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    task: OwnTask = None,
    as_json: AsJson = False,
) -> None:
    """Proponents and opponents of a stored example (--id), or of any image, text or prompt with its words."""
    from traklens.engine.explore.query import Question, answer_to

    name_task(task)
    for first, second in ((caption, label), (contrast, contrast_label)):
        if first is not None and second is not None:
            raise UsageError("query", "a caption and a label", "one of them, as the store has it", "Leave one out.")

    ways = {"--id": id, "--image": image, "--text": text, "--prompt": prompt}
    given_ways = [name for name, value in ways.items() if value]
    if len(given_ways) != 1:
        raise UsageError(
            "query", " and ".join(given_ways) or "no target", f"exactly one of {', '.join(ways)}", "Name the target."
        )
    given, words = ("--caption", caption) if caption is not None else ("--label", label)
    if id is not None and words is not None:
        raise UsageError("query", f"{given} together with --id", f"{given} with --image", "Use --contrast with --id.")
    rather = contrast if contrast is not None else contrast_label
    words = answer if prompt is not None else words
    question = Question(id, image, tuple(text or ()), prompt, words, rather, _span(span))
    found = answer_to(store, question, top=top)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    target = found["target"]
    title = next(name for name in ("caption", "label", *target) if name in target and name != "id")
    heading = Text(f"{target[title]!r}", style="bold")
    if rather is not None:
        heading.append(f" rather than {rather!r}")
    facts = f"f = {found['f']:.3f}"
    if "similarity" in found:
        facts += f"   similarity = {found['similarity']:.3f}"
    if "predicted" in target:
        facts += (
            f"   p = {target['p']:.3f}   predicted: {target['predicted']['label']} ({target['predicted']['p']:.3f})"
        )
    results.print(heading, Text(facts))
    for side in ("proponents", "opponents"):
        others = [name for name in (found[side] or [{}])[0] if name not in ("id", "score", title)]
        table = Table("score", title, *others, "id", title=side)
        for pair in found[side]:
            cells = [Text(str(pair[name])[:100]) for name in (title, *others)]
            table.add_row(f"{pair['score']:+.4f}", *cells, pair["id"])
        results.print(table)


def _span(given: str | None) -> tuple[int, int] | None:
    """START:END as numbers. UsageError for anything else."""
    if given is None:
        return None
    start, _, end = given.partition(":")
    if not (start.isdecimal() and end.isdecimal()):
        raise UsageError("span", repr(given), "START:END, two numbers of characters", "Write it as 3:12.")
    return int(start), int(end)


def info(
    store: StoreDir,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a store was built from, its size and, with --verify, whether every byte is as written."""
    from traklens.engine.explore.info import describe

    found = describe(store, verify=verify)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        results.print(facts_table(str(store), {k: v for k, v in found.items() if k != "manifest"}))
    if verify and found["problems"]:
        raise typer.Exit(1)
