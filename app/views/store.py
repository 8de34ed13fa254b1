"""Store: what it was built from, how healthy it is, what it takes on disk, and the commands that make it again."""

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.markup import facts_table, text
from traklens.app.parts import browse
from traklens.app.parts.charts import spectra
from traklens.app.state import read_view
from traklens.app.words import words_of
from traklens.engine.explore.health import Health, unseen_by
from traklens.engine.explore.info import disk_use, output_in_words
from traklens.engine.explore.reproduce import commands
from traklens.stores.store import Store

READ_FIRST = ("reader", "read from", "pairs", "examples", "classes", "left out", "not read")  # then the examples
EXPLANATION = """
**Mean p** is the probability a checkpoint gives to the true partner among the reference pairs, or to the label (1 − Q): how
well it fits. Much higher on what it has seen than on others means that it has learned them by heart.

**Effective rank** says on how many directions of gradient space the training examples really spread; **condition** is that of
the damped Gram matrix that is inverted. Dotted lines are what the damping adds to every eigenvalue: what lies below is noise
to it.
"""


def show(store: Store) -> None:
    """Draw the page."""
    with st.sidebar:
        browse.header(store, read_view())
        st.html('<div class="tl-quiet">This page is about the whole store, not about one example.</div>')
    manifest = store.manifest
    st.html('<div class="tl-title">What this store is</div>')
    distinct, groups = store.distinct
    words = words_of(store)
    there = f"{distinct:,} different {words.whats}" if words.kind != "pairs" else f"{distinct:,} captions"
    if store.task.first("image"):
        there += f", {groups:,} images"
    low, high = unseen_by(store)
    st.html(
        facts_table(
            [
                ("Data", str(store.data_root)),
                ("Task", f"{store.task.name} {store.task.version}"),
                (words.many.capitalize(), f"{store.n_train:,} training ({there}), {store.n_heldout:,} held-out"),
                ("Model", f"{manifest.model.name}, {store.n_checkpoints} checkpoints"),
                (
                    "Out of sample",
                    f"each training {words.one} for {low if low == high else f'{low} to {high}'} of them",
                ),
                (
                    "Projection",
                    f"{manifest.projection.kind}, k = {manifest.projection.dim:,}, seed {manifest.projection.seed}"
                    + (f", of {manifest.projection.modules}" if manifest.projection.modules else ""),
                ),
                ("Model output", output_in_words(manifest)),
                ("Damping λ", f"{manifest.score.damping:g}"),
                ("Index", f"{manifest.score.index}, recall of the top ten {_recall(manifest.recall)}"),
                ("Built", manifest.created),
                ("With", ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())),
            ]
        )
    )
    if read := manifest.options.get("data"):
        st.html('<div class="tl-head">How the data were read</div>')
        known = sorted(
            read.items(), key=lambda fact: (READ_FIRST.index(fact[0]) if fact[0] in READ_FIRST else 99, fact)
        )
        st.html(facts_table([(str(name), str(value)) for name, value in known]))
    st.html('<div class="tl-head">Make it again</div>')
    st.code("\n".join(commands(store)), language=None, wrap_lines=True)
    _health(caches.health_of_store(store))
    _disk(store)
    with st.expander("What do these numbers mean?", icon=":material/help:"):
        st.markdown(EXPLANATION)


def _recall(recall: dict) -> str:
    found = [value for name, value in recall.items() if name in ("proponents", "opponents")]
    return f"{min(found):.2f}" if found else "not measured"


def _health(found: list[Health]) -> None:
    st.html('<div class="tl-head">Health</div>')
    rows = "".join(
        f"<tr><td>{health.checkpoint}</td><td>{health.p_train:.2f}</td><td>{_share(health.p_unseen)}</td>"
        f"<td>{_share(health.p_heldout)}</td><td>{health.unseen:.0%}</td><td>{health.effective_rank:.0f}</td>"
        f"<td>{health.condition:,.0f}</td><td>{health.zero_gradients:.1%}</td></tr>"
        for health in found
    )
    heads = (
        "checkpoint",
        "mean p, training",
        "unseen",
        "held-out",
        "share unseen",
        "effective rank",
        "condition",
        "zero gradients",
    )
    st.html(
        '<div class="tl-scroll"><table class="tl-table"><thead><tr>'
        + "".join(f"<th>{name}</th>" for name in heads)
        + f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    st.plotly_chart(
        spectra([health.eigenvalues for health in found], [health.ridge for health in found]),
        config={"displayModeBar": False},
        key="spectra",
        alt="Eigenvalues of the Gram matrix of each checkpoint, and what the damping adds",
    )


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _disk(store: Store) -> None:
    used = disk_use(store)
    st.html(f'<div class="tl-head">On disk: {sum(used.values()) / 1e6:,.0f} MB</div>')
    st.html(facts_table([(name, f"{size / 1e6:,.1f} MB") for name, size in used.items()]))
    st.html(
        f'<div class="tl-quiet">Every byte can be checked with {text(f"traklens info {store.path} --verify")}</div>'
    )
