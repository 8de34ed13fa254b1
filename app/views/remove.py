"""Remove: choose training examples, see the predicted effect on the target and on others, check it by retraining."""

from dataclasses import replace

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.markup import notice, number, target_card, text
from traklens.app.parts import ask, retraining
from traklens.app.parts.cards import ranked_list
from traklens.app.parts.charts import effect_curves
from traklens.app.parts.download import report_button
from traklens.app.parts.target import opened
from traklens.app.parts.tray import picked_rows
from traklens.app.state import CHOICES, View, drop_picked, write_view
from traklens.app.words import Words, words_of
from traklens.engine.attribution.scores import Target, as_ranked
from traklens.engine.label_errors.decisions import confirmed_rows
from traklens.engine.removal.simulation import Prediction, collateral, mean_effect, most_removable, predict
from traklens.stores.reviews import Reviews
from traklens.stores.store import Store

CHOICE_NAMES = {
    "trak": "Top proponents",
    "greedy": "Most damaging set",
    "clip": "Most similar",
    "random": "At random",
    "picked": "Picked by hand",
    "confirmed": "Confirmed on Hunt",
}
CHOICE_HELP = {
    "trak": "the {many} with the highest attribution to this target",
    "greedy": "chosen one after the other, each the one whose removal on top of the others is predicted to do most",
    "clip": "the {many} most similar to the target, by the models' own embeddings",
    "random": "drawn from all training {many}: what removing this many does anyway",
    "picked": "the {many} you picked here or on the Explore page",
    "confirmed": "the {many} that reviewers found to be wrong or duplicates, without those whose {what} was corrected",
}
NOTHING = {
    "picked": "Nothing is picked yet. Press “Pick” beside {many} below, or on the Explore page.",
    "confirmed": "No {one} is confirmed as wrong yet. Review some on the Hunt page.",
}
OUTPUTS = {
    "pairs": "is the log odds that image and caption find each other; −1 divides the odds by 2.7",
    "labels": "is the log odds of the label; −1 divides the odds by 2.7",
    "language": "is the mean log odds of the answer's tokens",
    "own": "is what the task's `model_output` returns",
}
EXPLANATION = """
**Predicted change of f.** The model output *f* {output}. The *group* prediction takes all chosen {many} out at
once, so that near-duplicates cannot stand in for one another; the *additive* one is the plain sum of their scores, and is
usually too small.

**Interval.** Predictions are in units of *f*, but not yet to scale. Finished retrainings of this store give slope and
spread; nine of ten new retrainings should fall inside the interval. Without enough of them no interval is shown.

**Retrain to check** trains new models without these {many}, as many as you choose seeds, beside models trained on
everything and models without as many {many} drawn at random. A single retraining is noise: look at several.
"""


def show(store: Store) -> None:
    """Draw the page for the view in the URL."""
    view, target, image, chips = opened(store)
    words = words_of(store)
    st.html(target_card(target, image, chips, store.distinct))
    with st.container():
        ask.way_back(view, words)
    view = _choice(store, view, words)
    write_view(view)
    rows = _rows(store, target, view)
    if not rows.size:
        nothing = NOTHING.get(view.choice, "This target has no such training {one}. Choose another way to remove.")
        notice(nothing.format(one=words.one, many=words.many))
        if view.choice == "picked":
            _to_pick(store, target, view)
        return
    removal = caches.removal_of(store, tuple(int(row) for row in rows))
    prediction = predict(target, removal, caches.calibration_of(store)[0])
    left, right = st.columns([2, 3], gap="medium")
    with left:
        _prediction(target, rows, prediction, words)
    with right:
        st.html('<div class="tl-head">How many would it take?</div>')
        most = max(len(rows), min(most_removable(store), 4 * len(rows)))
        st.plotly_chart(
            effect_curves(caches.curves_of(store, target, min(most, most_removable(store))), len(rows)),
            config={"displayModeBar": False},
            key="curves",
            alt="Predicted change of f over the number of removed pairs, by TRAK, by similarity and at random",
        )
    retraining.show(store, target, rows, f"{view.choice} {len(rows)}", prediction)
    _collateral(store, removal, target)
    with st.expander(f"The {len(rows):,} {words.many} that would go", icon=":material/delete_sweep:"):
        found = as_ranked(store, target, rows[:50])
        ranked_list(store, found, key="removed", picked=view.picked)
        if len(rows) > 50:
            st.html(f'<div class="tl-quiet">and {len(rows) - 50:,} more</div>')
    report_button(store, target, removed=as_ranked(store, target, rows), prediction=prediction)
    with st.expander("What do these numbers mean?", icon=":material/help:"):
        st.markdown(EXPLANATION.format(many=words.many, output=OUTPUTS[words.kind]))


def _choice(store: Store, view: View, words: Words) -> View:
    """The widgets that say what to remove."""
    most = most_removable(store)
    default = min(most, view.k or max(1, round(0.02 * store.n_train)))
    names = {**CHOICE_NAMES, "picked": f"Picked by hand ({len(view.picked)})"}
    choices = [name for name in CHOICES if name != "clip" or store.task.embeddings]
    first = view.choice if view.choice in choices else "trak"
    choice = st.segmented_control(
        "Remove", choices, default=first, required=True, format_func=names.__getitem__, key="choice"
    )
    help = CHOICE_HELP[str(choice)].format(many=words.many, what=words.what)
    st.html(f'<div class="tl-quiet">{help}</div>')
    k = view.k
    if choice == "picked":
        st.button("Pick none", icon=":material/close:", on_click=drop_picked, disabled=not view.picked)
    elif choice != "confirmed":
        k = int(st.slider("How many", 1, most, default, key="k"))
    return replace(view, choice=str(choice), k=k)


def _rows(store: Store, target: Target, view: View) -> np.ndarray:
    if view.choice == "picked":
        return picked_rows(store, view)
    if view.choice == "confirmed":
        return confirmed_rows(store, Reviews(store.path).current())[: most_removable(store)]
    return caches.chosen_rows(store, target, view.choice, view.k or 1)


def _prediction(target: Target, rows: np.ndarray, prediction: Prediction, words: Words) -> None:
    """The predicted change in large, its interval or why there is none."""
    best = prediction.group if prediction.calibrated is None else prediction.calibrated
    tone = "up" if best >= 0 else "down"
    interval = (
        f"90 % interval {number(prediction.interval[0])} to {number(prediction.interval[1])}"
        if prediction.interval is not None
        else prediction.why_no_interval
    )
    kind = "group, calibrated" if prediction.calibrated is not None else "group, not calibrated"
    st.html(
        f'<div class="tl-head">Without {len(rows):,} training {words.one if len(rows) == 1 else words.many}</div>'
        f'<div class="tl-big tl-{tone}-ink">{number(best)}</div>'
        f'<div class="tl-quiet">predicted change of f ({kind}); f is now {number(target.f)}</div>'
        f'<div class="tl-quiet">{text(str(interval))}</div>'
        f'<div class="tl-quiet">group {number(prediction.group)} · additive {number(prediction.additive)}</div>'
    )


def _collateral(store: Store, removal, target: Target) -> None:
    """Whom else the removal touches."""
    overall = mean_effect(store, removal)
    if overall is not None:
        st.html(
            f'<div class="tl-quiet">All {store.n_heldout:,} held-out {store.noun}: predicted mean change of f '
            f"<b>{number(overall)}</b> (group)</div>"
        )
    falls, rises = collateral(store, removal, target, 5)
    whom = "held-out" if store.n_heldout else "training"
    for column, title, pairs, key in zip(
        st.columns(2, gap="medium"),
        (f"Other {whom} {store.noun} that would suffer most", f"Other {whom} {store.noun} that would gain most"),
        (falls, rises),
        ("falls", "rises"),
        strict=True,
    ):
        with column:
            st.html(
                f'<div class="tl-head">{title}</div><div class="tl-quiet">predicted change of their f (group)</div>'
            )
            ranked_list(store, pairs, key=key, empty="None would.")


def _to_pick(store: Store, target: Target, view: View) -> None:
    st.html('<div class="tl-head">Top proponents</div>')
    ranked_list(store, caches.ranking_of(store, target, "trak", 20).proponents, key="topick", picked=view.picked)
