"""`traklens query` and `traklens info`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from traklens.engine.cli.console import AsJson, StoreDir, facts_table, results
from traklens.stores.errors import UsageError


def query(
    store: StoreDir,
    id: Annotated[str | None, typer.Option(help="Example id of a stored pair.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image file of a pair that is not stored.")] = None,
    caption: Annotated[str | None, typer.Option(help="Its caption; the nearest stored one if not given.")] = None,
    contrast: Annotated[str | None, typer.Option(help="Second caption: why the first rather than this one?")] = None,
    top: Annotated[int, typer.Option(help="How many proponents and opponents.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Proponents and opponents of a stored pair (--id) or of any image and caption."""
    from traklens.engine.explore.query import answer

    if (id is None) == (image is None):
        raise UsageError("query", "both or neither of --id and --image", "exactly one of them", "Name the target.")
    if id is not None and caption is not None:
        raise UsageError(
            "query", "--caption together with --id", "--caption with --image", "Use --contrast with --id."
        )
    found = answer(store, id=id, image=image, caption=caption, contrast=contrast, top=top)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    target = found["target"]
    heading = Text(f"{target['caption']!r}", style="bold")
    if contrast is not None:
        heading.append(f" rather than {contrast!r}")
    results.print(heading, Text(f"f = {found['f']:.3f}   similarity = {found['similarity']:.3f}"))
    for side in ("proponents", "opponents"):
        table = Table("score", "caption", "image", "id", title=side)
        for pair in found[side]:
            table.add_row(f"{pair['score']:+.4f}", Text(pair["caption"][:100]), Text(pair["image"]), pair["id"])
        results.print(table)


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
