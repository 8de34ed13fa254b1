"""Make a data set with planted wrong captions: a share of them exchanged among each other, the true ones kept in a column.

    python benchmarks/swap_captions.py DATA OUT [--share 0.05] [--seed 0]

DATA is anything `traklens train` reads; OUT becomes an imagefolder whose column `true_text` is the truth for
`traklens hunt --truth true_text`.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from traklens.engine.data import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    dataset = load_dataset(wanted.data)
    captions = np.array([example.fields["caption"] for example in dataset.examples], dtype=object)
    swapped = captions.copy()
    rng = np.random.default_rng(wanted.seed)
    chosen = rng.permutation(len(captions))[: round(wanted.share * len(captions))]
    while (swapped[chosen] == captions[chosen]).any():
        swapped[chosen] = captions[rng.permutation(chosen)]
    wanted.out.mkdir(parents=True)
    rows = []
    for i, example in enumerate(dataset.examples):
        name = f"{i:05d}{Path(example.fields['image']).suffix}"
        shutil.copy(dataset.root / example.fields["image"], wanted.out / name)
        rows.append({"file_name": name, "text": swapped[i], "true_text": captions[i]})
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (wanted.out / "metadata.jsonl").write_text(text, encoding="utf-8")
    print(f"{wanted.out}: {len(rows)} pairs, {len(chosen)} captions exchanged")


if __name__ == "__main__":
    main()
