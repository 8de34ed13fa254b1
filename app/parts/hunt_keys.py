"""Decisions by key: what is recorded is what was on the screen when the key was pressed.

A script run takes longer than a practised reviewer. So the browser holds the next suspects with their pictures, shows the
next one at once and sends each press with the id of the pair it was made on; presses wait in the browser until the server
says that they are recorded. A press on anything else (a picture still loading, a pair already decided) is visibly not taken.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from streamlit.components.v2 import component

AHEAD = 16  # suspects that the browser holds: as many presses may wait to be recorded
PRESSES = "hunt-presses"
DONE = "hunt-done"  # the last press that was recorded
LOCK = "hunt-lock"
TURN = "hunt-turn"
SCRIPT = """
const QUEUE = "traklensHunt";
const BUTTONS = "[class*='st-key-decide-'], .st-key-hunt-undo, .st-key-hunt-back, .st-key-hunt-next";
export default function ({ data, parentElement, setStateValue }) {
  const me = (window[QUEUE] ??= { queue: [], last: 0, blocked: null });
  me.leave?.();  // this is called anew for every run of the script
  me.queue = me.queue.filter((press) => press.number > data.done);
  me.blocked = null;
  let status = parentElement.querySelector("[role=status]");
  if (!status) {
    status = document.createElement("div");
    status.setAttribute("role", "status");
    status.setAttribute("aria-live", "polite");
    status.style.cssText = "font-size:.8rem;min-height:1.2em;opacity:.8";
    parentElement.appendChild(status);
  }
  const pictured = data.items.filter((item) => item.picture);
  me.ahead = pictured.map((item) => Object.assign(new Image(), { src: item.picture }));  // held, so that they stay loaded
  const card = () => document.querySelector(".tl-suspect[data-pair]");
  const waiting = (id) => me.queue.some((press) => press.id === id);
  const say = (words, refused) => {
    status.textContent = words;
    status.style.color = refused ? "#c2410c" : "";
    status.dataset.refused = String(Number(status.dataset.refused ?? 0) + (refused ? 1 : 0));
  };
  const draw = () => {
    const shown = card();
    if (shown && waiting(shown.dataset.pair)) {
      const at = data.items.findIndex((item) => item.id === me.queue[me.queue.length - 1].id);
      const next = at < 0 ? null : data.items[at + 1];
      if (next) {
        shown.dataset.pair = next.id;
        if (next.picture) shown.querySelector("img").src = next.picture;
        const said = shown.querySelector(".tl-content bdi");
        if (said) said.textContent = next.content;
        shown.querySelector("[role=heading] bdi").textContent = next.caption;
        shown.querySelector(".tl-suspect-place").textContent = next.place;
        shown.querySelectorAll(".tl-chip").forEach((chip) => chip.remove());
      }
    }
    document.body.classList.toggle("tl-pending", me.queue.length > 0);
  };
  const press = (decision) => {
    const shown = card(), id = shown?.dataset.pair, picture = shown?.querySelector("img");
    const item = data.items.find((one) => one.id === id);
    if (!item || waiting(id) || me.blocked === id) return say("Not taken: the next pair is not on screen yet.", true);
    const loaded = !item.picture || (picture?.complete && picture.naturalWidth);
    if (!loaded) return say("Not taken: the picture is still loading.", true);
    me.last = Math.max(me.last + 1, Date.now());
    me.queue.push({ number: me.last, id, decision, seen: item.seen });
    setStateValue("presses", me.queue.slice());
    say(`${decision}: ${item.place}`, false);
    draw();
  };
  const stop = (event) => { event.preventDefault(); event.stopImmediatePropagation(); };
  const key = (event) => {
    const typing = event.target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !card()) return;
    const pressed = event.key.toLowerCase();
    if (data.keys[pressed]) { stop(event); if (!event.repeat) press(data.keys[pressed]); }
    else if (data.moves.includes(pressed)) move(event);
  };
  const move = (event) => {
    if (me.queue.length || me.blocked) { stop(event); say("Not taken: wait for the pair to be shown.", true); }
    else { me.blocked = card().dataset.pair; say("", false); }
  };
  const click = (event) => {
    const button = event.target.closest?.(BUTTONS);
    if (!button || !card() || !event.target.closest("button")) return;
    const named = /st-key-decide-(\\w+)/.exec(button.className)?.[1];
    if (Object.values(data.keys).includes(named)) { stop(event); press(named); }
    else if (event.isTrusted) move(event);  // otherwise it is a key's own click, which has passed `key`
  };
  const watch = new MutationObserver(draw);
  watch.observe(document.body, { childList: true, subtree: true });
  window.addEventListener("keydown", key, true);
  window.addEventListener("click", click, true);
  draw();
  return me.leave = () => {
    watch.disconnect();
    window.removeEventListener("keydown", key, true);
    window.removeEventListener("click", click, true);
    document.body.classList.remove("tl-pending");
  };
}
"""


def listen(
    items: Sequence[dict[str, Any]],
    keys: dict[str, str],
    moves: Sequence[str],
    record: Callable[[str, str, int], None],
) -> None:
    """Listen for decisions on `items`: the pair on screen and those that follow.

    Each has id, picture (its address, "" without one), content (a text, "" without one), caption, place and seen.
    `record(id, decision, seen)` is called once for each press; `keys` maps letters to decisions, `moves` are letters that
    change the pair by other means and wait until it is shown.
    """

    def pressed() -> None:
        # Two runs of one visitor may overlap: the lock keeps the presses in order, each of them once.
        with st.session_state.setdefault(LOCK, threading.Lock()):
            for press in st.session_state[PRESSES].presses or []:
                number, id, decision, seen = (press.get(name) for name in ("number", "id", "decision", "seen"))
                known = isinstance(number, int) and isinstance(id, str) and isinstance(seen, int)
                if known and number > st.session_state.get(DONE, 0):
                    st.session_state[DONE] = number
                    if decision in keys.values():
                        record(id, str(decision), seen)

    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1
    data = {
        "items": list(items),
        "keys": keys,
        "moves": list(moves),
        "done": st.session_state.get(DONE, 0),
        "turn": st.session_state[TURN],  # so that every run is heard of
    }
    component("traklens_hunt", js=SCRIPT)(key=PRESSES, data=data, on_presses_change=pressed)
