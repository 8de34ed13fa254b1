"""Small data sets in every form that people have; four pairs each, the captions in EXPECTED."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = [f"p{i}" for i in range(4)]


def picture(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 6), (40 * i, 200 - 30 * i, 90)).save(out, "PNG")
    return out.getvalue()


def put(folder: Path, *names: str) -> Path:
    """Pictures of these names, each another one."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(i))
    return folder


EXPECTED = [f"a plate {name}" for name in NAMES]


def img2dataset_files(folder: Path) -> None:
    for i, name in enumerate(NAMES):
        put(folder / "part" / "00000", f"{name}.jpg")
        (folder / f"part/00000/{name}.jpg").write_bytes(picture(i))
        (folder / f"part/00000/{name}.txt").write_text(f"a plate {name}\n")
        (folder / f"part/00000/{name}.json").write_text(json.dumps({"url": "http://x/y.jpg", "key": name}))


def sidecar_json(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    for name in NAMES:
        (folder / f"{name}.json").write_text(json.dumps({"caption": f"a plate {name}"}))


def webdataset(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i, name in list(enumerate(NAMES))[2 * shard : 2 * shard + 2]:
                for kind, content in (("small.png", picture(i)), ("txt", f"a plate {name}".encode())):
                    member = tarfile.TarInfo(f"{name}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    put(folder / "preview", "one.png", "two.png")


def parquet_bytes(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    images = [{"bytes": picture(i), "path": f"{name}.png"} for i, name in enumerate(NAMES)]
    pq.write_table(
        pa.table({"image": images, "caption": EXPECTED}), folder / "train-00000-of-00001.parquet", row_group_size=3
    )


def img2dataset_parquet(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    columns = {"key": NAMES, "caption": EXPECTED, "jpg": [picture(i) for i in range(4)], "url": ["http://x"] * 4}
    pq.write_table(pa.table(columns), folder / "00000.parquet")


def parquet_paths(folder: Path) -> None:
    put(folder, *(f"images/{name}.png" for name in NAMES))
    pq.write_table(
        pa.table({"image_path": [f"images/{n}.png" for n in NAMES], "text": EXPECTED}), folder / "list.parquet"
    )


def datasets_on_disk(folder: Path) -> None:
    (folder / "train").mkdir(parents=True)
    table = pa.table({"image": [{"bytes": picture(i), "path": None} for i in range(4)], "text": EXPECTED})
    with (
        pa.OSFile(str(folder / "train/data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "train/state.json").write_text('{"_fingerprint": "x"}')


def flickr8k(folder: Path) -> None:
    put(folder / "Flicker8k_Dataset", *(f"{name}.jpg" for name in NAMES))
    (folder / "Flickr8k_text").mkdir()
    lines = [f"{name}.jpg#0\ta plate {name}" for name in NAMES]
    (folder / "Flickr8k_text/Flickr8k.token.txt").write_text("\n".join(lines))
    (folder / "Flickr8k_text/Flickr8k.lemma.token.txt").write_text("\n".join(lines).replace("plate", "dish"))
    (folder / "Flickr8k_text/readme.txt").write_text("Flickr8k\n")


def flickr30k(folder: Path) -> None:
    put(folder / "flickr30k_images", *(f"{name}.jpg" for name in NAMES))
    lines = ["image_name| comment_number| comment", *(f"{name}.jpg| 0| a plate {name}" for name in NAMES)]
    (folder / "results.csv").write_text("\n".join(lines))


def karpathy(folder: Path) -> None:
    put(folder / "val2014", *(f"{name}.jpg" for name in NAMES))
    images = [
        {
            "filepath": "val2014",
            "filename": f"{name}.jpg",
            "split": "train",
            "sentences": [{"raw": f"a plate {name}"}],
        }
        for name in NAMES
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def coco_by_another_name(folder: Path) -> None:
    put(folder / "pictures", *(f"{name}.jpg" for name in NAMES))
    found = {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate(NAMES)],
        "annotations": [{"id": i, "image_id": i, "caption": f"a plate {name}"} for i, name in enumerate(NAMES)],
    }
    (folder / "my_annotations.json").write_text(json.dumps(found))


def metadata_in_each_folder(folder: Path) -> None:
    for part in (NAMES[:2], NAMES[2:]):
        put(folder / part[0], *(f"{name}.png" for name in part))
        rows = [f"{name}.png,a plate {name}" for name in part]
        (folder / part[0] / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    for i, name in enumerate(NAMES):
        next(folder.rglob(f"{name}.png")).write_bytes(picture(i))


def metadata_by_another_name(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    lines = [json.dumps({"file_name": f"{name}.png", "text": f"a plate {name}"}) for name in NAMES]
    (folder / "metadata-part1.jsonl").write_text("\n".join(lines))


def fiftyone(folder: Path) -> None:
    put(folder / "data", *(f"{name}.png" for name in NAMES))
    (folder / "labels.json").write_text(
        json.dumps({"classes": EXPECTED, "labels": {n: i for i, n in enumerate(NAMES)}})
    )


def label_studio(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/upload/3/8f3a-{name}.png"},
            "annotations": [{"result": [{"type": "textarea", "value": {"text": [f"a plate {name}"]}}]}],
        }
        for i, name in enumerate(NAMES)
    ]
    (folder / "project-1.json").write_text(json.dumps(tasks))


def label_studio_min(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    rows = [{"image": f"/data/upload/3/8f3a-{name}.png", "caption": f"a plate {name}"} for name in NAMES]
    (folder / "export.json").write_text(json.dumps(rows))


def semicolons(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    (folder / "list.csv").write_text("\n".join(["image;caption", *(f"{name}.png;a plate {name}" for name in NAMES)]))


def utf16(folder: Path) -> None:
    put(folder, *(f"{name}.png" for name in NAMES))
    text = "\r\n".join(["filepath\ttitle", *(f"{name}.png\ta plate {name}" for name in NAMES)])
    (folder / "list.tsv").write_bytes(text.encode("utf-16"))


def addresses_whose_files_are_there(folder: Path) -> None:
    put(folder / "images", *(f"{name}.jpg" for name in NAMES))
    rows = [f"a plate {name}\thttp://example.org/a/{name}.jpg?w=3" for name in NAMES]
    (folder / "train.tsv").write_text("\n".join(["caption\turl", *rows]))


FORMS = [
    img2dataset_files,
    sidecar_json,
    webdataset,
    parquet_bytes,
    img2dataset_parquet,
    parquet_paths,
    datasets_on_disk,
    flickr8k,
    flickr30k,
    karpathy,
    coco_by_another_name,
    metadata_in_each_folder,
    metadata_by_another_name,
    fiftyone,
    label_studio,
    label_studio_min,
    semicolons,
    utf16,
    addresses_whose_files_are_there,
]
