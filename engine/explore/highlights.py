"""What is worth seeing about a target, in plain sentences, and how far it can be trusted. No torch."""

from collections import Counter

from traklens.engine.attribution.described import classes_of, is_matching
from traklens.engine.attribution.methods import NAMES
from traklens.engine.attribution.scores import Ranked, Ranking, Target, shared_rows
from traklens.engine.evaluation.evaluate import kept_evaluation
from traklens.stores.store import Store


def story(store: Store, target: Target, trak: Ranking, clip: Ranking | None) -> list[str]:
    """How rare the caption is, or which labels the proponents have, and whether what taught the models is what looks alike;
    the example itself is never counted. clip: the most similar ones, None where they cannot be compared."""
    captions = store.examples.words[: store.n_train]
    same = int((captions == target.words).sum()) - _trains(store, target)
    proponents = [pair for pair in trak.proponents if pair.row != target.row]
    taught = sum(pair.words == target.words for pair in proponents)
    shown = len(proponents)
    first = _classes(target, proponents) if classes_of(store) else _rarity(store, target, same, taught, shown)
    told = [first] if same or is_matching(store) or classes_of(store) else []
    if clip is None:
        return told
    shared = len(shared_rows(trak, clip) - {target.row})
    return [
        *told,
        f"{shared} of the {shown} top proponents {'is' if shared == 1 else 'are'} also among the {len(clip.proponents)} most "
        f"similar training {store.noun}"
        + (": being similar is not the same as having influence." if 2 * shared <= shown else "."),
    ]


def _classes(target: Target, proponents: list[Ranked]) -> str:
    """What the models take it for, and the labels among the proponents."""
    counts = Counter(pair.words for pair in proponents).most_common(3)
    labels = ", ".join(f"{count} {label}" for label, count in counts) or "none"
    lead = ""
    if target.guess is not None and not target.contrast:
        sure = f"with probability {target.guess.p:.2f}"
        if target.guess.predicted == target.words:
            lead = f"The models take it for what its label says, {sure}. "
        else:
            lead = f"The models take it for {target.guess.predicted} {sure}, not for its label {target.words}. "
    return f"{lead}Labels of the {len(proponents)} top proponents: {labels}."


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
    other, one, what = "other " if _trains(store, target) else "", store.noun.removesuffix("s"), store.task.title
    if not same:
        return f"No {other}training {one} has this {what}: the match was learned from other {what}s."
    if same == 1:
        only = f"The only {other}training {one}"
        return f"{only} with this {what} is {'' if taught else 'not '}among the {shown} top proponents."
    there = f"{same:,} {other or ''}training {store.noun} of {store.n_train:,} have this very {what}"
    if taught == 0:
        return f"{there}; none of them is among the {shown} top proponents."
    return f"{there}; of the {shown} top proponents {taught} {'is' if taught == 1 else 'are'} among them."
