"""The legend of keys, on `?`, and `/` to search: the two keys that a button's own shortcut cannot have."""

import streamlit as st
from streamlit.components.v2 import component

from traklens.app.markup import legend

EVERYWHERE = {
    "?": "this legend",
    "/": "search captions",
    "s": "simulate removing what is in the tray",
    "v": "review what is in the tray",
    "Tab, Enter": "move to a pair or a button, press it",
    "Esc": "close a dialog",
}
EXPLORE = {"n": "next pair", "b": "pair before"}
HUNT = {
    "w": "wrong: out of the training list",
    "t": "wrong, and take the likelier caption",
    "k": "keep: the caption is right",
    "d": "duplicate: out of the training list",
    "u": "unsure: stays",
    "z": "undo your last decision",
    "n": "next suspect",
    "b": "back",
}
LISTEN = """
if (!window.traklensHistory) {
  // A page opened without a view fills it in: that replaces the bare address, so that "back" leads to the page before.
  window.traklensHistory = true;
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    const to = new URL(url ?? location.href, location.href);
    const fills = to.pathname === location.pathname && !location.search;
    return fills ? history.replaceState(state, title, url) : push(state, title, url);
  };
}
export default function ({ setTriggerValue }) {
  const pressed = (event) => {
    const typing = event.target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") setTriggerValue("asked", true);
    if (event.key === "/") {
      const search = document.querySelector(".st-key-search input");
      if (search) { event.preventDefault(); search.focus(); }
    }
  };
  document.addEventListener("keydown", pressed);
  return () => document.removeEventListener("keydown", pressed);
}
"""


@st.dialog("Keys")
def _dialog() -> None:
    for title, keys in (("Everywhere", EVERYWHERE), ("Explore", EXPLORE), ("Hunt", HUNT)):
        st.html(f'<div class="tl-head">{title}</div>{legend(keys)}')


def show() -> None:
    """Listen for the keys, and open the legend when asked."""
    listen = component("traklens_keys", js=LISTEN)
    with st.container(key="keys"):
        asked = listen(key="listen", on_asked_change=lambda: None).asked
    with st.sidebar:
        clicked = st.button("Keys", key="legend", type="tertiary", icon=":material/keyboard:", help="or press ?")
    if asked or clicked:
        _dialog()
