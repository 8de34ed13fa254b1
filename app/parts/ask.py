"""Questions that are not in the store: another caption, a contrast, or the visitor's own image."""

from dataclasses import dataclass, replace

import streamlit as st

from traklens.app.markup import text
from traklens.app.state import View, read_view, write_view

LONGEST = 10_000
BOX = "ask-box"  # the expander around the form: closed when a question is sent, so that the answer is seen


@dataclass(frozen=True)
class Upload:
    """What a visitor has asked about an image of their own; kept for this visit only."""

    image: bytes
    caption: str | None
    contrast: str | None


def way_back(view: View) -> bool:
    """A button that drops the question, when there is one; whether there is."""
    asked = bool(view.caption or view.contrast or current_upload())
    if asked:
        st.button("Back to the stored pair", icon=":material/undo:", on_click=_back, type="tertiary", key="back")
    return asked


def form() -> None:
    """The form below the target. Sending it re-ranks; an image stays with this visit, texts go into the URL."""
    with st.form("ask", border=False):
        left, middle, right = st.columns(3)
        left.text_input(
            "Another caption", key="ask-caption", max_chars=LONGEST, placeholder="Empty: the caption it has"
        )
        middle.text_input(
            "Why that rather than …", key="ask-contrast", max_chars=LONGEST, placeholder="A second caption (optional)"
        )
        right.file_uploader(
            "Your own image (optional)", type=["png", "jpg", "jpeg", "webp", "gif", "bmp"], key="ask-image"
        )
        st.form_submit_button("Ask", type="primary", icon=":material/troubleshoot:", on_click=_send)


def rival(caption: str | None, own: bool) -> None:
    """The models' own next guess for the image, and two questions about it. own: whether their first is the pair's."""
    if caption is None:
        return
    said = "The models' next best caption for this image" if own else "The models' best caption for this image"
    st.html(f'<div class="tl-quiet">{said}: <b>{text(caption, 300)}</b></div>')
    with st.container(horizontal=True):
        st.button("Why not that one?", key="rival-contrast", on_click=_ask, args=(None, caption))
        st.button("What taught them that one?", key="rival-caption", on_click=_ask, args=(caption, None))


def _ask(caption: str | None, contrast: str | None) -> None:
    """A question about the shown image, a visitor's own included."""
    st.session_state[BOX] = False
    upload = current_upload()
    if upload is not None:
        st.session_state["upload"] = replace(upload, caption=caption or upload.caption, contrast=contrast)
    else:
        write_view(replace(read_view(), caption=caption, contrast=contrast))


def current_upload() -> Upload | None:
    """The visitor's own image and question, if there is one."""
    return st.session_state.get("upload")


def _send() -> None:
    st.session_state[BOX] = False
    caption = (st.session_state.get("ask-caption") or "").strip() or None
    contrast = (st.session_state.get("ask-contrast") or "").strip() or None
    file = st.session_state.get("ask-image")
    if file is not None:
        st.session_state["upload"] = Upload(file.getvalue(), caption, contrast)
        write_view(replace(read_view(), caption=None, contrast=None))
    else:
        st.session_state.pop("upload", None)
        write_view(replace(read_view(), caption=caption, contrast=contrast))


def _back() -> None:
    st.session_state.pop("upload", None)
    for name in ("ask-caption", "ask-contrast"):
        st.session_state[name] = ""
    write_view(replace(read_view(), caption=None, contrast=None))
