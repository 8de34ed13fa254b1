"""Lists of ranked pairs: each a card that opens the pair, with a button to pick it for removal."""

from collections.abc import Mapping

import streamlit as st

from traklens.app.caches import pictures
from traklens.app.markup import ranked_card
from traklens.app.parts.shading import Looks
from traklens.app.state import go_to, toggle_picked
from traklens.app.words import words_of
from traklens.engine.attribution.scores import Ranked
from traklens.stores.store import Store


def ranked_list(
    store: Store,
    pairs: list[Ranked] | tuple[Ranked, ...],
    *,
    key: str,
    largest: float | None = None,
    chips: dict[int, tuple[str, ...]] | None = None,
    picked: tuple[str, ...] | None = None,
    empty: str | None = None,
    looks: Mapping[int, Looks] | None = None,
) -> None:
    """Draw the pairs, bars in proportion to `largest` (the largest among them if None).

    chips: what to say about a row; looks: its texts where they are shaded;
    picked: ids picked so far, None where nothing can be picked.
    """
    one = words_of(store).one
    if not pairs:
        st.html(f'<div class="tl-quiet">{empty or f"No training {one} does."}</div>')
        return
    version = pictures(store)
    top = largest if largest is not None else max(abs(pair.score) for pair in pairs)
    with st.container(gap="xxsmall"):
        for place, pair in enumerate(pairs, start=1):
            with st.container(key=f"card-rank-{key}-{place}"):
                look = (looks or {}).get(pair.row, Looks("", ""))
                shaded = (look.content, look.words)
                st.html(ranked_card(pair, place, top, version, chips=(chips or {}).get(pair.row, ()), shaded=shaded))
                st.button(f"Open {one} {pair.row}", key=f"open-{key}-{place}", on_click=go_to, args=(pair.id,))
                if picked is not None and pair.row < store.n_train:
                    chosen = pair.id in picked
                    st.button(
                        "Picked" if chosen else "Pick",
                        key=f"pick-{key}-{place}",
                        help=None,
                        type="primary" if chosen else "secondary",
                        on_click=toggle_picked,
                        args=(pair.id,),
                    )
