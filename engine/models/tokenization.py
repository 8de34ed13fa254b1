"""Tokenizers: made from the words of a data set for small models, or read from a folder of Hugging Face's `transformers`.

A tokenizer is kept as the JSON text of the `tokenizers` library, so that a run and a store hold it themselves.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from traklens.stores.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MASK = "[MASK]"
MARKS = {  # by kind: the marks, a text with them, two texts with them
    "pairs": (("[CLS]", "[SEP]"), "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "end": (("</s>",), "$A </s>", "$A </s> $B:1 </s>:1"),
    "both": (("<|endoftext|>",), "<|endoftext|> $A <|endoftext|>", "<|endoftext|> $A $B:1 <|endoftext|>"),
}


def library() -> None:
    """Raises ModelError unless Hugging Face's transformers and tokenizers are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "tokenizers")):
        raise ModelError(
            "transformers", "not installed", "the library for tasks of text", "pip install 'traklens[text]'."
        )


def trained(kind: str, size: int, texts: Iterable[str]) -> "Tokenizer":
    """A tokenizer of at most `size` pieces of bytes, from texts; the same texts give the same pieces.

    kind, the marks around a text: "pairs", in lower case, [CLS] a [SEP] b [SEP]; "end", </s> at the end; "both",
    <|endoftext|> at both ends. (The library's word pieces are not used: their order differs from one training to the next.)
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    marks, single, pair = MARKS[kind]
    made = Tokenizer(models.BPE())
    if kind == "pairs":
        made.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", *marks, MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    numbered = [(mark, made.token_to_id(mark)) for mark in marks]
    made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=numbered)  # type: ignore[assignment]
    return made


def read(folder: Path) -> "tuple[Tokenizer, int]":
    """The fast tokenizer of a local folder, and the id it pads with. Raises ModelError where there is none."""
    import transformers

    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        backend = found.backend_tokenizer
    except Exception as error:  # transformers raises whatever its files make it
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {folder}",
            f"no tokenizer ({words})",
            "tokenizer.json beside config.json",
            "Save it there with tokenizer.save_pretrained(folder).",
        ) from error
    pad = found.pad_token_id if found.pad_token_id is not None else found.eos_token_id
    return backend, int(pad or 0)


class Codec:
    """Texts to ids and back, by a tokenizer's JSON text; at most `longest` ids a text."""

    def __init__(self, json: str, pad: int, longest: int) -> None:
        library()
        from tokenizers import Tokenizer

        self.tokenizer, self.pad, self.longest = Tokenizer.from_str(json), pad, longest
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(longest)

    @property
    def marks(self) -> list[int]:
        """Ids of what is no word: the marks around texts, and [MASK]."""
        added = self.tokenizer.get_added_tokens_decoder()
        return [id for id, token in added.items() if token.special or token.content == MASK]

    def encoded(self, texts: Sequence[str] | Sequence[tuple[str, ...]]) -> "list[Encoding]":
        """Ids, kinds (first or second text) and places in the text, of each text or pair of texts."""
        return self.tokenizer.encode_batch(list(texts))  # type: ignore[arg-type]

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of some ids, without marks."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def padded(self, rows: Sequence[Sequence[int]], value: int | None = None) -> np.ndarray:
        """Rows of ids as int64 [B, L], filled up with the id of the padding (or `value`) to the longest."""
        width = max((len(row) for row in rows), default=0)
        found = np.full((len(rows), max(width, 1)), self.pad if value is None else value, dtype=np.int64)
        for number, row in enumerate(rows):
            found[number, : len(row)] = row
        return found
