"""Questions that are not in the store: other words, a contrast, or the visitor's own image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from traklens.app.markup import plain, text
from traklens.app.state import View, read_view, write_view
from traklens.app.words import Words

LONGEST = 10_000
LONGEST_WORD = 40  # characters of one of them
MOST_WORDS = 60  # of an answer whose words can be chosen
BOX = "ask-box"  # the expander around the form: closed when a question is sent, so that the answer is seen


@dataclass(frozen=True)
class Upload:
    """What a visitor has asked about an image, or about texts, of their own; kept for this visit only."""

    image: bytes | None
    texts: tuple[str, ...]
    caption: str | None
    contrast: str | None


def way_back(view: View, words: Words) -> bool:
    """A button that drops the question, when there is one; whether there is."""
    asked = bool(view.caption or view.contrast or view.span or current_upload())
    if asked:
        st.button(
            f"Back to the stored {words.one}", icon=":material/undo:", on_click=_back, type="tertiary", key="back"
        )
    return asked


def form(words: Words, classes: Sequence[str], texts: Sequence[str]) -> None:
    """The form below the target. Sending it re-ranks; an image or a text stays with this visit, words go into the URL.

    classes: what labels there are to choose among; none where words are typed. texts: names of the texts that can be
    typed, for examples without a picture.
    """
    with st.form("ask", border=False):
        for number, name in enumerate(texts):
            st.text_area(
                f"Your own {name} (optional)", key=f"ask-text-{number}", max_chars=LONGEST, height=80,
                placeholder=f"Empty: the {name} shown above",
            )  # fmt: skip
        left, middle, right = st.columns(3)
        if classes:
            left.selectbox(
                "Another label", ["", *classes], key="ask-caption", format_func=lambda c: c or "the label it has"
            )
            middle.selectbox(
                "Why that rather than …", ["", *classes], key="ask-contrast", format_func=lambda c: c or "(optional)"
            )
        else:
            what = words.what
            left.text_input(
                f"Another {what}", key="ask-caption", max_chars=LONGEST, placeholder=f"Empty: the {what} it has"
            )
            middle.text_input(
                "Why that rather than …",
                key="ask-contrast",
                max_chars=LONGEST,
                placeholder=f"A second {what} (optional)",
            )
        if not texts:
            right.file_uploader(
                "Your own image (optional)", type=["png", "jpg", "jpeg", "webp", "gif", "bmp"], key="ask-image"
            )
        st.form_submit_button("Ask", type="primary", icon=":material/troubleshoot:", on_click=_send)


def rival(caption: str | None, own: bool, words: Words) -> None:
    """The models' own next guess, and two questions about it. own: whether their first is the example's own."""
    if caption is None:
        return
    said = f"The models' {'next best' if own else 'best'} {words.what} for this {words.shown}"
    st.html(f'<div class="tl-quiet">{said}: <b>{text(caption, 300)}</b></div>')
    with st.container(horizontal=True):
        st.button("Why not that one?", key="rival-contrast", on_click=_ask, args=(None, caption))
        st.button("What taught them that one?", key="rival-caption", on_click=_ask, args=(caption, None))


def mark(words: str, begins: int, span: tuple[int, int] | None) -> None:
    """The words of an answer to choose among: the ranking is then of these. begins: where the answer begins in `words`."""
    places = [(m.start() - begins, m.end() - begins) for m in re.finditer(r"\S+", words) if m.start() >= begins]
    if not 1 < len(places) <= MOST_WORDS:
        return
    chosen = [n for n, (start, end) in enumerate(places) if span is not None and start < span[1] and end > span[0]]
    st.pills(
        "Ask about these words of the answer only",
        range(len(places)),
        selection_mode="multi",
        default=chosen,
        format_func=lambda n: plain(words[places[n][0] + begins : places[n][1] + begins][:LONGEST_WORD]),
        key=f"mark-{words}-{span}",
        on_change=_mark,
        args=(places, f"mark-{words}-{span}"),
    )


def _mark(places: list[tuple[int, int]], key: str) -> None:
    chosen = st.session_state.get(key) or []
    span = (places[min(chosen)][0], places[max(chosen)][1]) if chosen else None
    write_view(replace(read_view(), span=span))


def _ask(caption: str | None, contrast: str | None) -> None:
    """A question about the shown image, a visitor's own included."""
    st.session_state[BOX] = False
    upload = current_upload()
    if upload is not None:
        st.session_state["upload"] = replace(upload, caption=caption or upload.caption, contrast=contrast)
    else:
        write_view(replace(read_view(), caption=caption, contrast=contrast, span=None))


def current_upload() -> Upload | None:
    """The visitor's own image and question, if there is one."""
    return st.session_state.get("upload")


def _send() -> None:
    st.session_state[BOX] = False
    caption = (st.session_state.get("ask-caption") or "").strip() or None
    contrast = (st.session_state.get("ask-contrast") or "").strip() or None
    file, texts = st.session_state.get("ask-image"), _typed()
    if file is not None or any(texts):
        st.session_state["upload"] = Upload(None if file is None else file.getvalue(), texts, caption, contrast)
        write_view(replace(read_view(), caption=None, contrast=None, span=None))
    else:
        st.session_state.pop("upload", None)
        write_view(replace(read_view(), caption=caption, contrast=contrast, span=None))


def _typed() -> tuple[str, ...]:
    """The texts in the form, in their order."""
    names = sorted(str(key) for key in st.session_state if str(key).startswith("ask-text-"))
    return tuple((st.session_state[name] or "").strip() for name in names)


def _back() -> None:
    st.session_state.pop("upload", None)
    for name in (
        "ask-caption",
        "ask-contrast",
        *(key for key in st.session_state if str(key).startswith("ask-text-")),
    ):
        st.session_state[name] = ""
    write_view(replace(read_view(), caption=None, contrast=None, span=None))
