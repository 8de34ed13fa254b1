"""Evaluate: how far this store's attributions can be trusted, as `traklens evaluate` has measured it."""

import numpy as np
import streamlit as st

from traklens.app.caches import calibration_of, evaluation_of
from traklens.app.markup import fixed, notice, number, span, text
from traklens.app.parts import browse, facts_found
from traklens.app.parts.charts import calibration, drops, efficacy_over_cost
from traklens.app.state import read_view
from traklens.engine.attribution.methods import NAMES
from traklens.engine.evaluation.evaluate import in_words
from traklens.stores.store import Store

EXPLANATION = """
**LDS**, the linear datamodeling score: models are trained on random halves of the training set. For each held-out pair, a
method predicts *f* of each model by the sum of its scores over that model's half; the score is the rank correlation of
these predictions with what the models do, averaged over the pairs. 0 is chance. 1 cannot be reached: training itself is
noisy, so that even a second model trained on the same half agrees only in part. With two or more models per half
(`--repeats`) the highest value that this noise allows is estimated and drawn as a dotted line.

**Intervals** allow for other held-out pairs and for other models: every pair is judged by the same models, and the luck of
one moves all of them.

**Soft threshold**: small scores are mostly noise. Each method may keep the share of each target's scores that serves it
best, chosen on the other half of the targets.

**Leave-k-out** removes what a method holds most responsible for a pair, trains again, and measures how far the pair falls.
"""


def show(store: Store) -> None:
    """Draw the page."""
    with st.sidebar:
        browse.header(store, read_view())
        st.html('<div class="tl-quiet">This page is about the whole store, not about one example.</div>')
    found = evaluation_of(store)
    st.html('<div class="tl-title">How far can these attributions be trusted?</div>')
    if found is None:
        notice(
            "This store has not been evaluated yet. `traklens evaluate "
            f"{store.path}` trains 32 models on random halves of the training set, as many steps each as one of the "
            "store's own checkpoints, and measures. It can be interrupted and goes on where it stopped."
        )
    else:
        for sentence in in_words(found):
            st.html(f"<div>{text(sentence)}</div>")
        _lds(found)
        _drops(found)
    facts_found.show(store)
    _calibration(store, found)
    with st.expander("What do these numbers mean?", icon=":material/help:"):
        st.markdown(EXPLANATION)


def _lds(found: dict) -> None:
    st.html(
        '<div class="tl-head">Efficacy against cost</div><div class="tl-quiet">LDS of every method over the seconds it '
        f"takes on this machine, from one checkpoint to all; {found['subsets']} random halves, {found['repeats']} "
        f"{'model' if found['repeats'] == 1 else 'models'} each, {found['targets']} held-out pairs; bars are 95 % "
        "intervals over pairs and models.</div>"
    )
    st.plotly_chart(
        efficacy_over_cost(found["lds_by_checkpoints"], found.get("lds_attainable")),
        config={"displayModeBar": False},
        key="efficacy",
        alt="LDS over seconds of computation for every method",
    )
    lines = "".join(
        f"<tr><td>{text(NAMES[name])}</td><td>{fixed(row['mean'])}</td><td>{span(row['lo'], row['hi'])}</td>"
        f"<td>{_lead(name, row)}</td><td>{fixed(row['without_threshold']['mean'])}</td><td>{row['seconds']:.1f}</td></tr>"
        for name, row in sorted(found["lds"].items(), key=lambda item: -item[1]["mean"])
    )
    st.html(
        '<div class="tl-scroll"><table class="tl-table"><thead><tr><th>method</th><th>LDS</th><th>95 % interval</th>'
        "<th>TRAK's lead on the same pairs</th>"
        f"<th>without soft threshold</th><th>seconds</th></tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _lead(name: str, row: dict) -> str:
    lead = row.get("behind_trak")
    return "" if lead is None or name == "trak" else f"{number(lead['mean'])} ({span(lead['lo'], lead['hi'])})"


def _drops(found: dict) -> None:
    st.html('<div class="tl-head">Leave-k-out</div>')
    table = found["leave_k_out"]
    if not table:
        st.html(
            '<div class="tl-quiet">Not measured yet: <code>traklens evaluate … --leave-k-out K</code> removes the top K '
            "pairs of each method, trains again and measures the drop.</div>"
        )
        return
    targets = max(row["targets"] for by_method in table.values() for row in by_method.values())
    st.html(
        f'<div class="tl-quiet">Mean drop of f after removing what each method holds most responsible; up to {targets} '
        "targets; bars are 95 % intervals over targets and retrainings.</div>"
    )
    st.plotly_chart(
        drops(table), config={"displayModeBar": False}, key="drops", alt="Measured drop of f over removed pairs"
    )


def _calibration(store: Store, found: dict | None) -> None:
    """Predicted against measured removals, with everything that has finished since the evaluation."""
    st.html('<div class="tl-head">Predicted and measured removals</div>')
    fitted, points = calibration_of(store)
    if fitted is None:
        st.html(
            f'<div class="tl-quiet">{len(points)} removals of this store were checked by retraining; from 12 on, '
            "predictions come with an interval. Check some on the Remove page, or run <code>traklens evaluate … "
            "--leave-k-out K</code>.</div>"
        )
        if not points:
            return
    predicted = np.linspace(*_reach(points), 50)
    middle, low, high = fitted.predict(predicted) if fitted is not None else (predicted, predicted, predicted)
    st.plotly_chart(
        calibration([point.__dict__ for point in points], predicted, middle, low, high),
        config={"displayModeBar": False},
        key="calibration",
        alt="Measured over predicted change of f for every finished removal",
    )
    if fitted is not None:
        coverage = (found or {}).get("calibration", {}).get("interval_coverage")
        held_out = "" if coverage is None else f" {coverage:.0%} of held-out removals fell inside."
        st.html(
            f'<div class="tl-quiet">{len(points)} removals. Slope {fitted.slope:.2f}: a predicted change of −1 was measured '
            f"as {number(-fitted.slope)} on average. The band is the 90 % interval.{held_out}</div>"
        )


def _reach(points) -> tuple[float, float]:
    values = [point.group for point in points]
    return min([*values, 0.0]), max([*values, 0.0])
