"""How a data set is read for a task, as users say it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traklens.engine.data import Dataset, load_dataset
from traklens.engine.data.load import MASKED
from traklens.engine.progress import Report, silent
from traklens.engine.streams import STREAMS
from traklens.engine.tasks.contract import Task
from traklens.engine.tasks.registry import reading_of
from traklens.stores.errors import UsageError
from traklens.stores.specs import DatasetSpec


@dataclass(frozen=True)
class DataOptions:
    """What is not given follows from the data and the task. `text_column`: one column, or two of pairs of texts.

    `mask_facts`: of sentences with the facts they state, one entity at a time is masked, to be answered (seq2seq).
    """

    reader: str | None = None
    text_column: str | Sequence[str] | None = None
    caption_template: str | None = None
    label_column: str | None = None
    input_column: str | None = None
    target_column: str | None = None
    sample: int | None = None
    mask_facts: bool = False

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text_column,) if isinstance(self.text_column, str) else tuple(self.text_column or ())

    def or_those_of(self, spec: DatasetSpec) -> "DataOptions":
        """These options, and where they are not given those by which a data set was read before."""
        return replace(
            self,
            reader=self.reader or spec.reader,
            text_column=self.text_columns or spec.text_column,
            caption_template=self.caption_template or spec.caption_template,
            label_column=self.label_column or spec.label_column,
            sample=self.sample or spec.sample,
        )

    def task(self, task: Task) -> Task:
        """The task for the columns named. Raises UsageError for one that it has no field for."""
        given = {
            "text": self.text_columns,
            "label": (self.label_column,) if self.label_column else (),
            "input": (self.input_column,) if self.input_column else (),
            "target": (self.target_column,) if self.target_column else (),
        }
        columns = {field: names for field, names in given.items() if names}
        if self.mask_facts and (task.name != "seq2seq" or columns or self.reader):
            raise UsageError(
                "mask_facts",
                f"the task {task.name!r}" if task.name != "seq2seq" else "columns or a reader named beside it",
                "the task 'seq2seq', and columns text and facts",
                "Say --task seq2seq --mask-facts alone.",
            )
        pictures = any(field.kind == "image" for field in task.fields)
        known = {"text", "label"} if pictures else {field.name for field in task.fields} | {"text"}
        strange = [field for field in columns if field not in known]
        if strange or (len(self.text_columns) > 1 and pictures):
            raise UsageError(
                f"{strange[0] if strange else 'text'}_column",
                ", ".join(columns[strange[0]] if strange else self.text_columns),
                f"columns of the task {task.name!r}: " + ", ".join(field.name for field in task.fields),
                "Leave it out, or name another --task.",
            )
        return task.with_columns(columns) if columns else task

    def load(
        self, data: Path, task: Task, *, seed: int = 0, streams: int = STREAMS, report: Report = silent
    ) -> Dataset:
        """Read the data set for a task that `task` gave. Raises as `load_dataset`."""
        pictures = any(field.kind == "image" for field in task.fields)
        return load_dataset(
            data,
            reader=MASKED if self.mask_facts else self.reader,
            text_column="".join(self.text_columns) or None if pictures else None,
            caption_template=self.caption_template,
            label_column=self.label_column if pictures else None,
            sample=self.sample,
            seed=seed,
            streams=streams,
            fields=task.fields,
            read=reading_of(task),
            report=report,
        )
