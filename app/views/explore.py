"""Explore: an example, the training examples that raised and lowered the output for it, and similarity beside it."""

from dataclasses import replace

import streamlit as st

from traklens.app import caches
from traklens.app.markup import story_card, target_card, text
from traklens.app.parts import ask
from traklens.app.parts.cards import ranked_list
from traklens.app.parts.charts import score_distribution
from traklens.app.parts.download import report_button
from traklens.app.parts.shading import looks
from traklens.app.parts.target import opened
from traklens.app.state import METHODS, TOPS, View, follow_url, go_to, read_view, write_view
from traklens.app.words import Words, words_of
from traklens.engine.attribution.described import classes_of
from traklens.engine.attribution.lexical import text_of
from traklens.engine.attribution.scores import Ranked, Ranking, Target, shared_rows
from traklens.engine.explore.highlights import story, trust
from traklens.stores.examples import content_fields
from traklens.stores.store import Store

METHOD_NAMES = {
    "trak": "Influential (TRAK)",
    "clip": "Similar (CLIP)",
    "bm25": "Same words (BM25)",
    "both": "Side by side",
}
COSINES = {
    "pairs": "by image–image and caption–caption cosine, mean over the checkpoints",
    "labels": "by the cosine of the features before the last layer, mean over the checkpoints",
    "language": "by the cosine of the models' mean states over the text, mean over the checkpoints",
    "own": "by the cosine of the task's embeddings, mean over the checkpoints",
}
MARKS = {"trak": "also similar", "clip": "also a proponent", "bm25": "also a proponent"}
APART, STATED = "shares no content word", "states the answer"
SCORES = """
A score is TRAK's attribution: an estimate, in units of the model output *f*, of what the example contributed.
It says which examples matter and in which direction; how far its size can be trusted is measured by retraining.
"""
OF_PAIRS = f"""
**Proponents** are training pairs that made the models match this image with this caption; **opponents** worked
against it. {SCORES}
*f* is the log odds that the image picks this caption and the caption this image, against pairs drawn from the
training set. *Similarity* (cosine) only says which training pairs look or read alike: similar pairs need not have
taught the models anything, and influential ones need not be similar.

**Which pair is asked about:** an image is asked together with its own caption. An image of yours without a caption
takes the training caption nearest to it. With *rather than*, *f* is the difference between the two captions.
"""
OF_LABELS = f"""
**Proponents** are training examples that made the models take this image for what its label says; **opponents** worked
against it. {SCORES}
*f* is the log odds of the label, log p/(1 − p). *Similarity* (cosine of the features before the last layer) only says which
training images look alike to the models.

**Which label is asked about:** a stored image is asked with its own label, an image of yours without one with what the models
take it for. With *rather than*, *f* is the difference between the two labels: why a ship, and not a plane?
"""
OF_TEXTS = f"""
**Proponents** are training texts that made the models answer so, **opponents** worked against it. {SCORES}
*f* is the mean, over the tokens that are asked about, of the log odds log p/(1 − p) of the right token given all before it.
*Similarity* (cosine of mean states) only says which texts read alike to the models.

**What is asked about:** a stored text with its own answer; one of yours, without an answer, with what the models answer. With
*rather than*, *f* is the difference between the two answers.
"""
OF_OWN = f"""
**Proponents** are training examples that raise this output of your task, **opponents** lower it. {SCORES}
*f* is what the task's `model_output` returns. What the task does not offer is left out: similarity and the map come with a
method `embed`, retraining with `loss` and `build_model`, questions about new examples in Python with `values`.
"""
EXPLANATIONS = {"pairs": OF_PAIRS, "labels": OF_LABELS, "language": OF_TEXTS, "own": OF_OWN}


def show(store: Store) -> None:
    """Draw the page for the view in the URL."""
    view, target, image, chips = opened(store)
    words = words_of(store)
    follow_url(view)
    st.html(target_card(target, image, chips, store.distinct))
    with st.container():
        _recorded(store, view)
    if words.kind != "own":
        asking = f"Ask with another {words.what}, a contrast, or your own {words.shown}"
        with st.expander(asking, icon=":material/edit:", key=ask.BOX, on_change="rerun"):
            ask.form(words, classes_of(store), _typed(store, words))
            if words.kind == "language":
                ask.mark(target.words, _begins(store, target), view.span)
            if not target.contrast:
                ask.rival(caches.rival_asked(store, target), _is_first(target), words)
    left, middle, right = st.columns([6, 2, 2], vertical_alignment="center")
    with middle:
        if not ask.way_back(view, words):
            _neighbours(store, view)
    names = METHOD_NAMES if words.kind == "pairs" else METHOD_NAMES | {"clip": "Similar"}
    texts, method = words.shown == "text", "trak"
    offered = [m for m in METHODS if (m != "bm25" or texts) and (m not in ("clip", "both") or store.task.embeddings)]
    if len(offered) > 1:
        method = left.segmented_control(
            "Order by", offered, default=view.method if view.method in offered else "trak", required=True,
            format_func=names.__getitem__, label_visibility="collapsed", key="method",
        )  # fmt: skip
    top = right.selectbox(
        "How many",
        TOPS,
        index=TOPS.index(view.top),
        key="top",
        format_func="top {}".format,
        label_visibility="collapsed",
    )
    view = replace(
        view, method=str(method), top=int(top), unshared=view.unshared and texts, shade=view.shade and texts
    )
    if texts:
        with st.container(horizontal=True, gap="medium"):
            unshared = st.toggle("Only what shares no content word", value=view.unshared, key="unshared")
            shade = st.toggle("Shade words by what they contribute", value=view.shade, key="shade")
        view = replace(view, unshared=unshared, shade=shade)
    write_view(view)
    _rankings(store, target, view, words)
    report_button(store, target)
    with st.expander("What do these numbers mean?", icon=":material/help:"):
        said = EXPLANATIONS[words.kind]
        st.markdown(said if words.shown == "image" else said.replace("image", words.shown))


def _typed(store: Store, words: Words) -> list[str]:
    """Names of the texts that a visitor can type; none where examples are something else."""
    if words.shown != "text":
        return []
    return content_fields(store.task) or ["beginning"]


def _is_first(target: Target) -> bool:
    """Whether the models' first guess is the target's own caption or label."""
    if target.match is not None:
        return target.match.rank_image_to_text == 1
    return target.guess is not None and target.guess.predicted == target.words


def _neighbours(store: Store, view: View) -> None:
    """The examples before and after this one."""
    row = store.examples.row_of(str(view.id))
    with st.container(horizontal=True, gap="small"):
        for name, key, step in (("Back", "b", -1), ("Next", "n", 1)):
            to = str(store.examples.id[(row + step) % store.n])
            st.button(name, key=f"step-{key}", shortcut=key, on_click=go_to, args=(to,), type="tertiary")


def _recorded(store: Store, view: View) -> None:
    """What the data set's own table says about the stored pair whose image is shown."""
    facts = {k: v for k, v in store.examples.attributes(store.examples.row_of(str(view.id))).items() if v}
    if facts and ask.current_upload() is None:
        shown = " · ".join(
            f"{text(name.replace('_', ' '), 60)}: <b>{text(str(value), 120)}</b>" for name, value in facts.items()
        )
        st.html(f'<div class="tl-quiet">Recorded in the data set: {shown}</div>')


def _begins(store: Store, target: Target) -> int:
    """Where the answer begins in a target's words: after a visitor's own prompt, where the model goes on with it."""
    own = ask.current_upload() is not None and not content_fields(store.task)
    return target.span[0] if own and target.span is not None and read_view().span is None else 0


def _chips(
    store: Store, target: Target, found: dict[str, Ranking], shown: list[Ranked], words: Words
) -> dict[str, dict[int, tuple[str, ...]]]:
    """What to say about each shown row, by the method that ranks it."""
    trak = found["trak"]
    also = {m: shared_rows(trak, ranking) for m, ranking in found.items() if m != "trak"}
    also["trak"] = also.get("clip", set())
    stated, apart = set[int](), set[int]()
    if words.shown == "text":
        lexicon, rows = caches.lexicon_of(store), [pair.row for pair in shown]
        sharing = lexicon.sharing(text_of(store, target))
        apart = {row for row in rows if not sharing[row]}
        if words.kind == "language" and content_fields(store.task):
            stated = lexicon.stating(target.words, rows)

    def of(row: int, method: str) -> tuple[str, ...]:
        itself = (f"this {words.one} itself",) if row == target.row else ()
        marks = ((MARKS[method], also[method]), (STATED, stated), (APART, apart if method == "trak" else set()))
        return itself + tuple(mark for mark, rows in marks if row in rows)

    return {method: {pair.row: of(pair.row, method) for pair in shown} for method in found}


def _heading(words: Words, method: str, end: int) -> tuple[str, str]:
    """Title of a column, and what stands in it."""
    if method == "clip":
        return (
            ("Most similar", COSINES[words.kind]) if end == 0 else ("Least similar", "the other end of the same list")
        )
    if method == "bm25":
        return "Most words in common", "by BM25 of all words, rare ones counting most"
    if end == 0:
        return "Proponents", f"{words.raises}: without them f is expected to fall"
    return "Opponents", f"{words.lowers}: without them f is expected to rise"


def _rankings(store: Store, target: Target, view: View, words: Words) -> None:
    """Columns of ranked examples, and the distribution of the scores."""
    trak = caches.ranking_of(store, target, "trak", view.top, view.unshared)
    others = {"clip": bool(store.task.embeddings), "bm25": words.shown == "text" and view.method in ("bm25", "both")}
    found = {"trak": trak} | {
        m: caches.ranking_of(store, target, m, view.top) for m, there in others.items() if there
    }
    st.html(story_card(story(store, target, trak, found.get("clip")), trust(store)))
    if view.method == "both":
        columns = [(method, 0, ranking.proponents) for method, ranking in found.items()]
    elif view.method == "bm25":
        columns = [("bm25", 0, found["bm25"].proponents)]
    else:
        ranking = found.get(view.method, trak)
        columns = [(view.method, 0, ranking.proponents), (view.method, 1, ranking.opponents)]
    largest = {
        name: max((abs(p.score) for n, _, pairs in columns for p in pairs if n == name), default=0)
        for name in METHODS
    }
    chips = _chips(store, target, found, [pair for _, _, pairs in columns for pair in pairs], words)
    influence = [pair for method, _, pairs in columns for pair in pairs if method == "trak"]
    looked = looks(store, target, influence) if view.shade and influence else {}
    for place, (column, (method, end, pairs)) in enumerate(
        zip(st.columns(len(columns), gap="medium"), columns, strict=True)
    ):
        with column:
            title, unit = _heading(words, method, end)
            st.html(f'<div class="tl-head">{title}</div><div class="tl-quiet">{unit}</div>')
            ranked_list(
                store, pairs, key=f"{place}", largest=largest[method], chips=chips[method], picked=view.picked,
                looks=looked if method == "trak" else None,
            )  # fmt: skip
    shown = view.method if view.method in ("clip", "bm25") else "trak"
    st.html(f'<div class="tl-head">All training {words.many}</div>')
    edges, counts = caches.histogram_of(store, target, shown)
    st.plotly_chart(
        score_distribution(edges, counts, shown),
        config={"displayModeBar": False},
        key="distribution",
        alt=f"Histogram of the scores of all training {words.many}",
    )
