"""Lists in one JSON document: COCO captions, Karpathy splits, FiftyOne, Label Studio, plain lists of objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traklens.engine.data.example import Problem
from traklens.engine.data.rows import IMAGE_COLUMNS, Options, Row, caption_of, split_named, without_caption
from traklens.engine.data.survey import Survey
from traklens.engine.data.tables import json_of
from traklens.stores.errors import DataError


def _of_form(survey: Survey, fits) -> list[Path]:
    return [file for file in survey.lists if file.suffix.lower() == ".json" and fits(json_of(file))]


def _objects(value: Any) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _picture(survey: Survey, file: Path, name: Any, folder: str = "") -> str | None:
    if not isinstance(name, str) or not name:
        return None
    if folder and (survey.root / folder / name).is_file():
        return f"{folder}/{name}"
    return survey.locate(file.parent, name)


# COCO captions, under any file name


def coco_files(survey: Survey) -> list[Path]:
    def fits(found: Any) -> bool:
        if not isinstance(found, dict) or not isinstance(found.get("images"), list):
            return False
        return any("caption" in a for a in _objects(found.get("annotations")))

    return _of_form(survey, fits)


def coco_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del options
    for file in files:
        found = json_of(file)
        folder = file.stem.removeprefix("captions_")
        split = "heldout" if folder.startswith(("val", "test")) else "train"
        names = {str(image.get("id")): image.get("file_name") for image in _objects(found["images"])}
        for number, annotation in enumerate(found["annotations"]):
            where = f"annotation {number} of {file.name}"
            if not isinstance(annotation, dict):
                yield Problem("annotation that is no object", where, repr(annotation)[:60])
                continue
            image, where = (
                str(annotation.get("image_id")),
                f"annotation {annotation.get('id', number)} of {file.name}",
            )
            place = _picture(survey, file, names.get(image), folder)
            if place is None:
                detail = "no file_name" if image in names else "not among the images"
                yield Problem("annotation without a picture", where, f"image_id {image[:40]}: {detail}")
            elif "caption" not in annotation:
                yield Problem("annotation without a caption", where, f"of {place}")
            else:
                yield Row(place, annotation["caption"], split, {"coco_image_id": image})


# Karpathy splits


def karpathy_files(survey: Survey) -> list[Path]:
    def fits(found: Any) -> bool:
        images = _objects(found.get("images")) if isinstance(found, dict) else []
        return any(isinstance(image.get("sentences"), list) for image in images)

    return _of_form(survey, fits)


def karpathy_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del options
    for file in files:
        for number, image in enumerate(_objects(json_of(file)["images"])):
            place = _picture(survey, file, image.get("filename"), str(image.get("filepath") or ""))
            if place is None:
                yield Problem("row without a picture", f"image {number} of {file.name}", "no filename")
                continue
            split = "train" if image.get("split") == "restval" else split_named(image.get("split"))
            for sentence in image.get("sentences") or [None]:
                yield Row(place, sentence.get("raw") if isinstance(sentence, dict) else sentence, split, {})


# FiftyOne's image classification export


def fiftyone_files(survey: Survey) -> list[Path]:
    return _of_form(survey, lambda found: isinstance(found, dict) and isinstance(found.get("labels"), dict))


def fiftyone_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    for file in files:
        found = json_of(file)
        classes = found.get("classes") if isinstance(found.get("classes"), list) else []
        places = {Path(picture).with_suffix("").as_posix(): picture for picture in survey.pictures}
        stems = {Path(picture).stem: picture for picture in survey.pictures}
        for key, label in found["labels"].items():
            place = places.get(f"data/{key}") or stems.get(key) or survey.locate(file.parent, key)
            by_number = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes)
            label = classes[label] if by_number else label
            caption = label if options.caption_template is None else caption_of({"label": label}, options, str(file))
            yield Row(place, caption, None, {"label": label} if by_number else {})


# Label Studio: JSON (tasks with annotations) and JSON-MIN (flat objects, a case of `record_files`)


def label_studio_files(survey: Survey) -> list[Path]:
    return _of_form(
        survey, lambda f: any("annotations" in t and isinstance(t.get("data"), dict) for t in _objects(f))
    )


def label_studio_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    del options
    for file in files:
        for number, task in enumerate(_objects(json_of(file))):
            data = _dict(task.get("data"))
            name = next((data[key] for key in IMAGE_COLUMNS if isinstance(data.get(key), str)), None)
            place = _labelled(survey, file, name)
            if place is None:
                yield Problem("row without a picture", f"task {number} of {file.name}", "no image")
                continue
            texts = [text for annotation in _objects(task.get("annotations")) for text in _texts(annotation)]
            yield Row(place, texts, None, without_caption(data, Options("caption")))


def _labelled(survey: Survey, file: Path, name: str | None) -> str | None:
    """Label Studio serves uploads under /data/…, with a random prefix before a dash."""
    if name is None:
        return None
    last = name.split("?d=")[-1].rsplit("/", 1)[-1]
    for part in (last, last.split("-", 1)[-1]):
        if (places := survey.by_name.get(part)) and len(places) == 1:
            return places[0]
    return survey.locate(file.parent, name)


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _texts(annotation: dict) -> Iterator[str]:
    for result in _objects(annotation.get("result")):
        text = _dict(result.get("value")).get("text")
        yield from [text] if isinstance(text, str) else [t for t in text or [] if isinstance(t, str)]


# A list of objects


def record_files(survey: Survey) -> list[Path]:
    def fits(found: Any) -> bool:
        return any(any(key in item for key in IMAGE_COLUMNS) for item in _records(found)[:5])

    return _of_form(survey, fits)


def _records(found: Any) -> list[dict]:
    if isinstance(found, dict):
        found = next(
            (found[key] for key in ("data", "annotations", "images") if isinstance(found.get(key), list)), []
        )
    return _objects(found)


def record_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    for file in files:
        for number, item in enumerate(_records(json_of(file))):
            column = next((key for key in IMAGE_COLUMNS if isinstance(item.get(key), str)), "")
            place = _labelled(survey, file, item.get(column))
            if place is None:
                yield Problem("row without a picture", f"object {number} of {file.name}", "no picture")
                continue
            try:
                caption = caption_of(item, options, f"object {number} of {file.name}")
            except DataError:
                yield Problem("no caption column", place, "other columns")
                continue
            yield Row(place, caption, split_named(item.get("split")), without_caption(item, options, column))
