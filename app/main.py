"""The router: one page per view, and one place where errors become a message."""

from pathlib import Path

import streamlit as st

from app.caches import current_store
from app.markup import notice
from app.views import explore
from stores.errors import TrakLensError


def explore_page() -> None:
    try:
        explore.show(current_store())
    except TrakLensError as error:
        notice(str(error), kind="error")


HERE = Path(__file__).parent
st.set_page_config(page_title="TrakLens", page_icon=str(HERE / "icon.svg"), layout="wide")
st.html(HERE / "style.css")
st.navigation([st.Page(explore_page, title="Explore", url_path="explore", default=True)], position="hidden").run()
