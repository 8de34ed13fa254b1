"""Retrain to check: start, follow and cancel a retraining, show it beside its prediction, and the history of all."""

from dataclasses import asdict

import numpy as np
import streamlit as st

from traklens.app.markup import notice, number, text
from traklens.app.parts.charts import prediction_and_measurement
from traklens.app.words import words_of
from traklens.engine.attribution.scores import Target
from traklens.engine.removal.simulation import Prediction
from traklens.engine.retraining.jobs import cancel, history, resume, start
from traklens.engine.retraining.measurements import Measurements
from traklens.stores.errors import TrakLensError
from traklens.stores.retrained import Request, Retrained, Status
from traklens.stores.store import Store

SEEDS = (1, 2, 3, 5, 8)
ACTIVE = ("waiting", "running")
STATES = {
    "waiting": "about to start",
    "running": "running",
    "interrupted": "interrupted",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
Job = tuple[str, Request, Status]


def show(store: Store, target: Target, rows: np.ndarray, choice: str, prediction: Prediction) -> None:
    """The section of one removal: its retraining if there is one, else the button; then the history."""
    words = words_of(store)
    st.html('<div class="tl-head">Is the prediction right?</div>')
    if target.row is None or target.contrast is not None:
        st.html(
            f'<div class="tl-quiet">Retraining measures stored {words.many} with their own {words.what}s. For this question, '
            f"build the store with the {words.one} among its targets (<code>--targets</code>).</div>"
        )
        return
    jobs = history(store)
    wanted = {int(row) for row in rows}
    own = [job for job in jobs if job[1].target == target.row and set(job[1].rows) == wanted]
    with st.container(key="retraining"):
        if own:
            _one(store, own[0], prediction)
        if not own or own[0][2].state not in (*ACTIVE, "interrupted"):
            _form(store, target, rows, choice, prediction, again=bool(own))
    _history(store, [job for job in jobs if job[1].origin == "asked"])


def _form(store: Store, target: Target, rows, choice: str, prediction: Prediction, again: bool) -> None:
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    seeds = int(left.selectbox("Retrainings (seeds)", SEEDS, index=SEEDS.index(3), key="seeds"))
    request = Request(
        rows=tuple(int(row) for row in rows),
        seeds=seeds,
        target=target.row,
        choice=choice,
        predicted={k: v for k, v in asdict(prediction).items() if not isinstance(v, tuple)},
    )
    right.button(
        "Retrain with more seeds" if again else "Retrain to check",
        key="retrain",
        icon=":material/model_training:",
        type="secondary" if again else "primary",
        on_click=_start,
        args=(store, request),
    )
    st.html(
        f'<div class="tl-quiet">Trains up to {3 * seeds} models in the background: {seeds} without these {store.noun}, '
        f"{seeds} on everything, and as many without a random set of the same size. Models that exist already are used "
        "again. You may "
        "leave the page.</div>"
    )


def _start(store: Store, request: Request) -> None:
    try:
        start(store, request)
    except (TrakLensError, OSError) as error:
        st.session_state["retraining-error"] = str(error)


def _one(store: Store, job: Job, prediction: Prediction) -> None:
    """One job: live progress while it works, then the comparison."""
    name, request, status = job
    if status.state in ACTIVE:
        _follow(store, name)
    elif status.state in ("interrupted", "failed"):
        _stopped(store, name, status)
    found = Measurements(store).of(request)
    if found is None:
        return
    st.plotly_chart(
        prediction_and_measurement(
            prediction.group, prediction.calibrated, prediction.interval, found.changes, found.random
        ),
        config={"displayModeBar": False},
        key="check",
        alt="Predicted and measured change of f, each retraining a dot, beside removals at random",
    )
    spread = "" if np.isnan(found.deviation) else f" ± {found.deviation:.2f} (spread of a single retraining)"
    drawn = f" · as many at random: {number(float(np.mean(found.random)))}" if found.random else ""
    st.html(
        f'<div class="tl-quiet">Measured with {len(found.changes)} '
        f"{'seed' if len(found.changes) == 1 else 'seeds'}: <b>{number(found.change)}</b>{spread} · {_plain(store)} "
        f"{number(found.similarity_change)}{drawn} · f with everything {number(found.control_f)}</div>"
    )
    overall = Measurements(store).of(request, slice(store.n_train, store.n)) if store.n_heldout else None
    if overall is not None:
        others = f" · as many at random: {number(float(np.mean(overall.random)))}" if overall.random else ""
        st.html(
            f'<div class="tl-quiet">All {store.n_heldout:,} held-out {store.noun}, measured: mean change of f '
            f"<b>{number(overall.change)}</b>{others} · {_plain(store)} {number(overall.similarity_change)}</div>"
        )


def _plain(store: Store) -> str:
    """What is measured beside f: CLIP's cosine, or the probability of the label."""
    return "cosine" if words_of(store).kind == "pairs" else "p"


@st.fragment(run_every="1s")
def _follow(store: Store, name: str) -> None:
    """Progress, redrawn every second by itself; the whole page once the job has ended."""
    try:
        status = Retrained(store.path).status(name)
    except TrakLensError:  # cancelled and removed
        st.rerun()
        return
    if status.state not in ACTIVE:
        st.rerun()
    share = status.done / status.total if status.total else 0.0
    detail = f"{status.done} of {status.total} models" + (f" · {status.detail}" if status.detail else "")
    st.progress(min(share, 1.0), text=detail if status.total else "Reading the data …")
    if st.button("Cancel", key=f"cancel-{name}", icon=":material/cancel:"):
        cancel(store, name, wait_seconds=10)
        st.rerun()


def _stopped(store: Store, name: str, status: Status) -> None:
    notice(
        status.detail if status.state == "failed" else f"Interrupted after {status.done} of {status.total} models.",
        kind="error",
    )
    left, right, _ = st.columns([1, 1, 3])
    left.button("Go on", key=f"resume-{name}", icon=":material/play_arrow:", on_click=resume, args=(store, name))
    right.button("Discard", key=f"discard-{name}", icon=":material/delete:", on_click=cancel, args=(store, name))


def _history(store: Store, jobs: list[Job]) -> None:
    """Every removal somebody asked for: predicted, measured, state."""
    error = st.session_state.pop("retraining-error", None)
    if error:
        notice(error, kind="error")
    if not jobs:
        return
    with st.expander(f"History of retrainings ({len(jobs)})", icon=":material/history:"):
        measurements = Measurements(store)
        lines = []
        for _, request, status in jobs[:100]:
            found = measurements.of(request)
            known = request.target is not None and 0 <= request.target < store.n
            caption = str(store.examples.words[request.target]) if known else "-"
            predicted = request.predicted.get("group")
            lines.append(
                f"<tr><td>{text(caption, 80)}</td><td>{text(request.choice)}</td>"
                f"<td>{'-' if predicted is None else number(predicted)}</td>"
                f"<td>{'-' if found is None else number(found.change)}</td>"
                f"<td>{len(found.changes) if found else 0} of {request.seeds}</td><td>{STATES[status.state]}</td></tr>"
            )
        st.html(
            '<div class="tl-scroll"><table class="tl-table"><thead><tr><th>target</th><th>removed</th><th>predicted</th>'
            f"<th>measured</th><th>seeds</th><th>state</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )
