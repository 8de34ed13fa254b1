"""Map: all pairs on a plane, coloured by what they did to the chosen one; a lasso around some shows and collects them."""

import numpy as np
import streamlit as st

from traklens.app import caches
from traklens.app.markup import notice, picked_card, target_line
from traklens.app.parts import ask
from traklens.app.parts.charts import pairs_on_a_plane
from traklens.app.parts.target import opened
from traklens.app.state import MOST_PICKED, View, add_picked, go_to, write_view
from traklens.app.words import Words, words_of
from traklens.engine.attribution.scores import Target, as_ranked
from traklens.stores.store import Store

PER_PAGE = 48
NO_MAP = (
    "This task has no embeddings, so there is no plane to lay its examples out on. A method `embed` of the task, which "
    "returns unit vectors by name, would bring the map; build the store again with it."
)
EXPLANATION = """
Each point is a training {one}. The two axes are those along which the models' embeddings of the training
{many} differ most (principal components over all checkpoints), so that far apart means different; two points on top of each
other need not be alike in every other respect.

**Colour.** Blue {many} {raises} of the chosen {one}, orange ones lower it, grey ones do neither. Influence is often
spread over {many} that lie nowhere near the chosen one: that is what similarity alone does not show.

**Lasso or box.** Draw around points (tools at the upper right of the figure), look at the {many} below, and put them into the
tray: to simulate their removal or to review them.
"""


def show(store: Store) -> None:
    """Draw the page for the view in the URL."""
    view, target, image, _ = opened(store)
    words = words_of(store)
    st.html(target_line(target, image))
    with st.container():
        ask.way_back(view, words)
    write_view(view)
    if not store.task.embeddings:
        notice(NO_MAP)
        return
    sides = [_side(name) for name in store.task.embeddings]
    colours = {"trak": f"Influence on this {words.one}", "clip": "Similarity to it"}
    colours |= {"wrong": f"Likely wrong {words.what}"} if words.hunts else {}
    side = sides[0]
    with st.container(horizontal=True):
        if len(sides) > 1:
            side = st.segmented_control(
                "Lay out", sides, default=sides[0], required=True, format_func=lambda name: f"By {name}", key="map-side",
                label_visibility="collapsed",
            )  # fmt: skip
        colour = st.segmented_control(
            "Colour", list(colours), default="trak", required=True, format_func=colours.__getitem__, key="map-colour",
            label_visibility="collapsed",
        )  # fmt: skip
    found = caches.painted_map(store, target, sides.index(str(side)), str(colour))
    if found.is_one_point:
        alike = "pictures" if side == "image" else f"{side}s"
        notice(f"To these models the {alike} of all training {words.many} are alike: there is nothing to lay out.")
    event = st.plotly_chart(
        pairs_on_a_plane(found, str(colour), words.one),
        key=f"map-{side}-{colour}-{target.key}",
        on_select="rerun",
        selection_mode=("points", "box", "lasso"),
        config={"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["autoScale2d", "toImage"]},
        alt=f"All training {words.many} on a plane, coloured by their value for the chosen {words.one}",
    )
    chosen = _selected(event, store.n_train)
    if chosen.size:
        _collected(store, target, view, chosen, words)
    else:
        st.html(
            f'<div class="tl-quiet">Draw a lasso or a box around points, or click one, to see the {words.many}.</div>'
        )
    with st.expander("What do these colours mean?", icon=":material/help:"):
        st.markdown(EXPLANATION.format(one=words.one, many=words.many, raises=words.raises))


def _side(name: str) -> str:
    """What an embedding is of, in a word."""
    return {"text_embedding": "caption"}.get(name, name.removesuffix("_embedding").replace("_", " "))


def _selected(event, n_train: int) -> np.ndarray:
    """Training rows of the selected points, each once: int64."""
    rows = (point.get("customdata") for point in event["selection"]["points"])
    plain = (row[0] if isinstance(row, list) else row for row in rows)
    return np.array(
        sorted({int(row) for row in plain if row is not None and 0 <= int(row) < n_train}), dtype=np.int64
    )


def _collected(store: Store, target: Target, view: View, chosen: np.ndarray, words: Words) -> None:
    """The selected pairs, the most influential on the target first, and the way into the tray."""
    pairs = sorted(as_ranked(store, target, chosen), key=lambda pair: -pair.score)
    ids = [pair.id for pair in pairs[:MOST_PICKED]]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<div class="tl-head">{words.count(len(pairs))} selected</div>')
        some = f"the first {MOST_PICKED}" if len(pairs) > MOST_PICKED else "all"
        st.button(f"Put {some} into the tray", key="map-pick", on_click=add_picked, args=(tuple(ids),))
    st.html('<div class="tl-quiet">The most influential on the chosen one first. Click one to ask about it.</div>')
    pages = -(-len(pairs) // PER_PAGE)
    page = min(int(st.session_state.get("map-page", 1)), pages)
    version = caches.pictures(store)
    with st.grid(8, min_column_width=90, gap="xxsmall"):
        for pair in pairs[(page - 1) * PER_PAGE : page * PER_PAGE]:
            with st.container(key=f"card-map-{pair.row}"):
                st.html(picked_card(pair, version, pair.id in view.picked))
                st.button(
                    f"Ask about {words.one} {pair.row}", key=f"map-open-{pair.row}", on_click=go_to, args=(pair.id,)
                )
    if pages > 1:
        st.pagination(pages, key="map-page", max_visible_pages=7)
