"""Hunt: the training examples most likely to have a wrong caption, label or answer, one key per decision, undo, export."""

from dataclasses import replace

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.markup import LONGEST, LONGEST_CONTENT, notice, picture, suggested, suspect_card, why_suspect
from traklens.app.parts import browse, hunt_export, hunt_keys, hunt_table
from traklens.app.parts.cards import ranked_list
from traklens.app.parts.review import problem, recorded
from traklens.app.parts.tray import picked_rows
from traklens.app.state import View, read_view, write_view
from traklens.app.words import words_of
from traklens.engine.label_errors.decisions import DROPPED
from traklens.engine.label_errors.signals import reasons_of
from traklens.engine.label_errors.suspects import Suspects, estimate_in_words
from traklens.stores.reviews import Review, Reviews, seen_of
from traklens.stores.store import Store

OFFERED = 1.5  # times as many as are estimated to be wrong
PICKED = 0  # in place of a size: the pairs in the tray
QUEUES = (50, 100, 200, 500, 1_000, 2_000)
MODES = {"pair": "One by one", "table": "Table", "found": "Found so far"}
KEYS = {
    "wrong": ("Wrong", "w", "the {what} does not fit the {shown}: out of the training list"),
    "keep": ("Keep", "k", "the {what} is right"),
    "duplicate": ("Duplicate", "d", "a copy of another {one}: out of the training list"),
    "unsure": ("Unsure", "u", "cannot be told: stays in the training list"),
}
NO_HUNT = (
    "The examples of this task have no caption, label or answer that could be wrong. Hunting needs image–caption pairs, a "
    "classifier or inputs with answers; on Explore, strong opponents and examples that explain themselves are worth a look."
)
EXPLANATION = """
**Probability.** How likely the {what} is wrong, from all signals together. It is an estimate from the store alone; the
share of confirmed ones among those you have reviewed says how good it is.

**Percentiles.** 99 means: more suspect by this sign than 99 % of the training {many}. Signals disagree; a rare but right
{one} explains itself (high self-influence) without being wrong.

**What decisions do.** *Wrong* and *duplicate* ones leave the exported training list, unless a better {what} was accepted.
Everything is logged and can be undone; building the store again keeps it. Nothing is changed in your data.
"""


def show(store: Store) -> None:
    """Draw the page; the pair under review is the one in the URL."""
    words = words_of(store)
    if not words.hunts:
        with st.sidebar:
            browse.header(store, read_view())
        notice(NO_HUNT)
        return
    suspects = caches.suspects_of(store)
    reviews = Reviews(store.path)
    decisions = reviews.current()
    view = read_view()
    with st.sidebar:
        browse.header(store, view)
        queue, reviewer, view = _settings(store, suspects, view)
        hunt_export.show(store, suspects, decisions)
    problem()
    ids = [str(id) for id in store.examples.id[queue]]
    _progress(ids, decisions)
    mode = st.segmented_control(
        "View", list(MODES), default="pair", required=True, format_func=MODES.__getitem__, key="hunt-mode",
        label_visibility="collapsed",
    )  # fmt: skip
    if mode != "pair":
        write_view(view)
    if mode == "table":
        hunt_table.show(store, suspects, queue, decisions, reviewer)
    elif mode == "found":
        hunt_export.found_so_far(store, suspects, ids, decisions)
    else:
        _one_by_one(store, suspects, queue, ids, decisions, reviewer, view)
    with st.expander("What do these numbers mean?", icon=":material/help:"):
        st.markdown(EXPLANATION.format(one=words.one, many=words.many, what=words.what))


def _settings(store: Store, suspects: Suspects, view: View) -> tuple[np.ndarray, str, View]:
    """Which training rows to look at, the most suspect first, who looks, and the view with this choice."""
    picked = picked_rows(store, view)
    sizes = [n for n in QUEUES if n < store.n_train] + [store.n_train]
    wanted = next((n for n in sizes if n >= min(500, OFFERED * suspects.expected_wrong)), sizes[-1])
    options = [*([PICKED] if picked.size else []), *sizes]
    first = PICKED if picked.size and view.queue == "picked" else wanted
    size = st.selectbox(
        "Look at", options, index=options.index(first), key="queue",
        format_func=lambda n: f"the {picked.size:,} picked" if n == PICKED else f"the {n:,} most suspect",
    )  # fmt: skip
    view = replace(view, queue="picked" if size == PICKED else "suspects")
    st.html(f'<div class="tl-quiet">{estimate_in_words(store, suspects, words_of(store).what)}</div>')
    reviewer = st.text_input(
        "Your name", key="reviewer", max_chars=60, help="Recorded with your decisions; undo is yours."
    )
    order = suspects.order
    return order[np.isin(order, picked)] if size == PICKED else order[:size], reviewer or "", view


def _progress(ids: list[str], decisions: dict[str, Review]) -> None:
    done = [decisions[id] for id in ids if id in decisions]
    bad = sum(review.decision in DROPPED for review in done)
    words = f"{len(done):,} of {len(ids):,} reviewed"
    if done:
        words += f", {bad / len(done):.0%} confirmed"
    st.progress(len(done) / max(1, len(ids)), text=words)


def _one_by_one(
    store: Store, suspects: Suspects, queue: np.ndarray, ids: list[str], decisions: dict[str, Review], reviewer: str,
    view: View,
) -> None:  # fmt: skip
    place = _place(ids, decisions, view.id)
    row, id = int(queue[place]), ids[place]
    write_view(replace(view, id=id, caption=None, contrast=None, span=None))
    review = decisions.get(id)
    _decide(store, ids, place, decisions, reviewer)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        chips = () if review is None else (f"decided: {review.decision}", *filter(None, (review.caption,)))
        st.html(
            suspect_card(
                row, id, store.examples.words[row], caches.pictures(store), chips=chips,
                place=_place_in_words(place, ids),
                probability=float(suspects.probability[row]) if suspects.probability.any() else None,
                about=store.examples.content(row),
            )
        )  # fmt: skip
    with right:
        reasons = [(words, suspects.percentile(name, row)) for name, words in reasons_of(store).items()]
        st.html(why_suspect(reasons, store.noun))
        st.html(suggested(caches.suggestions_of(store, row), words_of(store).what))
    target = caches.target_of(store, row)
    ranking = caches.ranking_of(store, target, "trak", 5)
    for column, title, pairs, key in zip(
        st.columns(2, gap="medium"),
        (f"What taught the models this {words_of(store).one}", "What opposed it"),
        (ranking.proponents, ranking.opponents),
        ("for", "against"),
        strict=True,
    ):
        with column:
            st.html(f'<div class="tl-head">{title}</div>')
            ranked_list(store, pairs, key=f"hunt-{key}", chips={row: (f"this {words_of(store).one} itself",)})


def _place(ids: list[str], decisions: dict[str, Review], wanted: str | None) -> int:
    """The pair to show: the one in the URL if it is in the queue, else the first without a decision, else the first."""
    if wanted in ids:
        return ids.index(wanted)
    return _next(ids, decisions, -1)


def _next(ids: list[str], decisions, place: int) -> int:
    """The first pair without a decision after `place`, then from the beginning; the following pair if there is none."""
    order = [*range(place + 1, len(ids)), *range(place + 1)]
    return next((i for i in order if ids[i] not in decisions), order[0])


def _place_in_words(place: int, ids: list[str]) -> str:
    return f"suspect {place + 1:,} of {len(ids):,}"


def _ahead(store: Store, ids: list[str], place: int, decisions: dict[str, Review]) -> list[dict]:
    """The pair on screen and those that follow it as decisions are made, for the browser to hold."""
    order = [i for i in (*range(place + 1, len(ids)), *range(place)) if ids[i] not in decisions]
    items = []
    for i in (place, *order[: hunt_keys.AHEAD]):
        row = store.examples.row_of(ids[i])
        items.append(
            {
                "id": ids[i],
                "picture": picture(row, caches.pictures(store), "large"),
                "content": store.examples.content(row)[:LONGEST_CONTENT],
                "caption": str(store.examples.words[row])[:LONGEST],
                "place": _place_in_words(i, ids),
                "seen": seen_of(decisions, ids[i]),
            }
        )
    return items


def _decide(store: Store, ids: list[str], place: int, decisions: dict[str, Review], reviewer: str) -> None:
    """The keys, and what they do."""
    id, reviews, words = ids[place], Reviews(store.path), words_of(store)
    following = ids[_next(ids, {**decisions, id: None}, place)]

    def go(to: str) -> None:
        write_view(replace(read_view(), id=to, caption=None, contrast=None, span=None))

    def decide(decision: str, caption: str | None = None) -> None:
        seen = {id: seen_of(decisions, id)}
        if recorded(lambda: reviews.decide([id], decision, reviewer=reviewer, caption=caption, seen=seen)):
            go(following)

    def by_key(pressed: str, decision: str, seen: int) -> None:
        """A press on a pair that the browser had on screen."""
        if pressed in ids:
            recorded(lambda: reviews.decide([pressed], decision, reviewer=reviewer, seen={pressed: seen}))
            go(ids[_next(ids, reviews.current(), ids.index(pressed))])

    def correct() -> None:
        better = caches.suggestions_of(store, store.examples.row_of(id))
        if better:
            decide("wrong", better[0])

    def undo() -> None:
        undone = recorded(lambda: reviews.undo(reviewer))
        if undone and undone[0] in ids:
            go(undone[0])

    with st.container(horizontal=True, key="hunt-keys"):
        for decision, (label, key, help) in KEYS.items():
            help = help.format(one=words.one, what=words.what, shown=words.shown)
            st.button(label, key=f"decide-{decision}", shortcut=key, help=help, on_click=decide, args=(decision,))
            if decision == "wrong":
                st.button(
                    f"Wrong, take the likelier {words.what}", key="decide-better", shortcut="t", on_click=correct,
                    help=f"the {words.one} stays, with the likelier {words.what} shown below",
                )  # fmt: skip
        st.button("Undo", key="hunt-undo", shortcut="z", on_click=undo, help="take back your last decision")
        st.button("Back", key="hunt-back", shortcut="b", on_click=go, args=(ids[place - 1],))
        st.button("Next", key="hunt-next", shortcut="n", on_click=go, args=(ids[(place + 1) % len(ids)],))
    letters = {key: decision for decision, (_, key, _) in KEYS.items()}
    hunt_keys.listen(_ahead(store, ids, place, decisions), letters, "tzbn", by_key)
