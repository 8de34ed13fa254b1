"""Readers: from a folder or file to rows (picture, caption, split, further columns). Registered by name.

Detection tries them in the order of `READERS`; the first that finds a list of its form reads all of them. Folders are taken
for classes only where nothing looks like a list of captions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from traklens.engine.data import readers_arrays as arrays
from traklens.engine.data import readers_folders as folders
from traklens.engine.data import readers_json as nested
from traklens.engine.data import readers_lists as lists
from traklens.engine.data import readers_packed as packed
from traklens.engine.data.example import Problem
from traklens.engine.data.rows import Options, Row
from traklens.engine.data.survey import Survey


@dataclass(frozen=True)
class Reader:
    """`find` gives the files of this form (for forms without a list: the folders); `rows` reads them.

    `classes` names the classes in the order in which models number them, where the form says so.
    """

    find: Callable[[Survey], list[Path]]
    rows: Callable[[Survey, list[Path], Options], Iterator[Row | Problem]]
    form: str
    classes: Callable[[Survey, list[Path]], list[str] | None] | None = None


READERS: Mapping[str, Reader] = {
    "imagefolder": Reader(lists.metadata_files, lists.metadata_rows, "metadata.jsonl or metadata.csv with file_name"),
    "open_clip_csv": Reader(lists.open_clip_files, lists.table_rows, "a list with filepath and title"),
    "coco": Reader(nested.coco_files, nested.coco_rows, "COCO captions (images, annotations)"),
    "karpathy": Reader(nested.karpathy_files, nested.karpathy_rows, "a Karpathy split (images with sentences)"),
    "flickr": Reader(lists.flickr_files, lists.flickr_rows, "Flickr8k's or Flickr30k's list"),
    "fiftyone": Reader(nested.fiftyone_files, nested.fiftyone_rows, "FiftyOne's labels.json"),
    "label_studio": Reader(nested.label_studio_files, nested.label_studio_rows, "Label Studio's export"),
    "webdataset": Reader(packed.shards, packed.shard_rows, "webdataset shards (.tar)"),
    "parquet": Reader(
        packed.tables, packed.table_rows, "Parquet or Arrow tables with pictures", packed.table_classes
    ),
    "sidecar": Reader(folders.captioned_folders, folders.sidecar_rows, "a .txt or .caption beside each picture"),
    "table": Reader(lists.table_files, lists.table_rows, "a table with a picture and a caption column"),
    "records": Reader(nested.record_files, nested.record_rows, "a JSON list of objects with a picture and a caption"),
    "cifar": Reader(arrays.cifar_files, arrays.cifar_rows, "CIFAR's binary files", arrays.cifar_classes),
    "mnist": Reader(arrays.mnist_files, arrays.mnist_rows, "MNIST's IDX files", arrays.mnist_classes),
    "class_folders": Reader(folders.class_folders, folders.class_rows, "a folder per class", folders.class_names),
}
ALIASES = {"flickr8k": "flickr", "flickr30k": "flickr"}
