"""A button that hands out the page as one HTML file."""

import streamlit as st

from traklens.app.parts.ask import current_upload
from traklens.engine.attribution.scores import Ranked, Target
from traklens.engine.data.images import thumbnail_of
from traklens.engine.explore.report import report
from traklens.engine.removal.simulation import Prediction
from traklens.stores.store import Store


def report_button(
    store: Store, target: Target, *, removed: list[Ranked] | None = None, prediction: Prediction | None = None
) -> None:
    """Made when pressed: the target and, on Remove, what the chosen removal is predicted to do."""
    upload = current_upload()

    def make() -> bytes:
        own = thumbnail_of(upload.image) if upload is not None and upload.image and target.row is None else None
        page = report(store, target, removed=removed, prediction=prediction, picture=own)
        return page.encode("utf-8", "replace")

    st.download_button(
        "Report (one HTML file)",
        data=make,
        file_name=f"traklens-{target.id or 'question'}.html",
        mime="text/html",
        icon=":material/description:",
        on_click="ignore",
        type="tertiary",
        key="report",
    )
