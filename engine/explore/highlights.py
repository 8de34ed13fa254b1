"""What is worth seeing about a target, in plain sentences, and how far it can be trusted. No torch."""

from traklens.engine.attribution.methods import NAMES
from traklens.engine.attribution.scores import Ranking, Target, shared_rows
from traklens.engine.evaluation.evaluate import kept_evaluation
from traklens.stores.store import Store


def story(store: Store, target: Target, trak: Ranking, clip: Ranking) -> list[str]:
    """How rare the caption is, and whether what taught the match is what looks alike; the pair itself is never counted."""
    captions = store.examples.caption[: store.n_train]
    same = int((captions == target.caption).sum()) - _trains(store, target)
    proponents = [pair for pair in trak.proponents if pair.row != target.row]
    taught = sum(pair.caption == target.caption for pair in proponents)
    shown = len(proponents)
    shared = len(shared_rows(trak, clip) - {target.row})
    return [
        _rarity(store, target, same, taught, shown),
        f"{shared} of the {shown} top proponents {'is' if shared == 1 else 'are'} also among the {len(clip.proponents)} most "
        "similar training pairs"
        + (": being similar is not the same as having influence." if 2 * shared <= shown else "."),
    ]


def _trains(store: Store, target: Target) -> bool:
    return target.row is not None and target.row < store.n_train


def trust(store: Store) -> str:
    """How well the scores of this store predict retraining, in one sentence."""
    found = kept_evaluation(store)
    if found is None or "trak" not in found["lds"]:
        return "How well these scores predict retraining has not been evaluated on this store yet (see Evaluate)."
    scores = {name: row["mean"] for name, row in found["lds"].items()}
    others = {name: value for name, value in scores.items() if name not in ("trak", "random")}
    sentence = f"On this store TRAK predicts retrained models with rank correlation {scores['trak']:.2f}"
    if others:
        best = max(others, key=lambda name: others[name])
        sentence += f" (the best other method, {NAMES[best]}: {others[best]:.2f})"
    return sentence + ": trust the order of many more than the score of one."


def _rarity(store: Store, target: Target, same: int, taught: int, shown: int) -> str:
    other = "other " if _trains(store, target) else ""
    if not same:
        return f"No {other}training pair has this caption: the match was learned from other captions."
    if same == 1:
        only = "The only other training pair" if other else "The only training pair"
        return f"{only} with this caption is {'' if taught else 'not '}among the {shown} top proponents."
    there = f"{same:,} {other or ''}training pairs of {store.n_train:,} have this very caption"
    if taught == 0:
        return f"{there}; none of them is among the {shown} top proponents."
    return f"{there}; of the {shown} top proponents {taught} {'is' if taught == 1 else 'are'} among them."
