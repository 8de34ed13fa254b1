"""One target, or one removal, as a single HTML file for an appendix or a ticket.

The pictures are inside, nothing is fetched, there is no script. No torch.
"""

import base64
from collections.abc import Sequence
from html import escape

from traklens.engine.attribution.described import classes_of, is_language, is_matching
from traklens.engine.attribution.scores import Ranked, Target, rank
from traklens.engine.evaluation.evaluate import in_words, kept_evaluation
from traklens.engine.explore.reproduce import commands
from traklens.engine.removal.simulation import Prediction
from traklens.engine.retraining.measurements import Measured
from traklens.stores.store import Store

STYLE = """
.traklens { --up: #2f74d0; --down: #c4561d; line-height: 1.45; }
.traklens h1 { font-size: 1.5rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.traklens h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; }
.traklens .head { display: flex; gap: 1.2rem; }
.traklens .head img { width: 176px; height: 176px; object-fit: contain; flex: none; }
.traklens .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
.traklens .row { display: grid; grid-template-columns: 1.4rem 52px 1fr 4.5rem; gap: .6rem; align-items: center;
  padding: .25rem 0; }
.traklens .row img { width: 52px; height: 52px; object-fit: contain; }
.traklens .row b { text-align: right; font-variant-numeric: tabular-nums; }
.traklens .row div { overflow-wrap: anywhere; }
.traklens .up { color: var(--up); } .traklens .down { color: var(--down); }
.traklens .bar { height: 6px; border-radius: 3px; background: currentColor; min-width: 2px; }
.traklens table { border-collapse: collapse; }
.traklens th, .traklens td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
.traklens pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.traklens small, .traklens .quiet { opacity: .7; }
"""
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
"""


def report(
    store: Store,
    target: Target,
    *,
    top: int = 10,
    removed: list[Ranked] | None = None,
    prediction: Prediction | None = None,
    measured: Measured | None = None,
    picture: bytes | None = None,
) -> str:
    """The page. `removed`, `prediction` and `measured` add a removal; `picture` (WebP) is that of a target not stored."""
    ranking = rank(store, target, top=top)
    body = [head(store, target, picture)]
    if removed is not None and prediction is not None:
        body.append(_removal(store, removed, prediction, measured))
    body += [both_ends(store, ranking.proponents, ranking.opponents), _trust(store)]
    title = escape(target.words[:80])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        f'\'unsafe-inline\'"><style>{PAGE_STYLE}{STYLE}</style></head><body class="traklens">{"".join(body)}</body></html>'
    )


def fragment(
    store: Store, target: Target, proponents: Sequence[Ranked], opponents: Sequence[Ranked], picture: bytes | None
) -> str:
    """The answer to one question as a piece of HTML for a notebook: pictures inside, styles of its own, no script."""
    return _piece(head(store, target, picture) + both_ends(store, proponents, opponents))


def listed(store: Store, examples: Sequence[Ranked]) -> str:
    """Some examples as a piece of HTML for a notebook."""
    return _piece(_pairs(store, examples, _largest(examples)))


def _piece(body: str) -> str:
    return f'<style>{STYLE}</style><div class="traklens">{body}</div>'


def both_ends(store: Store, proponents: Sequence[Ranked], opponents: Sequence[Ranked]) -> str:
    """Proponents and opponents side by side, their bars on one scale."""
    largest = _largest([*proponents, *opponents])
    columns = (
        f"<div><h2>{title}</h2>{_pairs(store, pairs, largest)}</div>"
        for title, pairs in (("Proponents", proponents), ("Opponents", opponents))
    )
    return f'<div class="two">{"".join(columns)}</div>'


def head(store: Store, target: Target, picture: bytes | None) -> str:
    """The target: its picture where there is one, its caption, what the models make of it."""
    stored = target.row is not None and store.has_pictures
    image = picture if picture is not None else (store.thumbnail(int(target.row or 0), "large") if stored else None)
    against = f"<p>rather than “{_text(target.contrast)}”</p>" if target.contrast else ""
    split = "" if target.row is None else ("training" if target.row < store.n_train else "held-out")
    facts = {
        "model output f": f"{target.f:+.3f}",
        **_described(target),
        store.noun.removesuffix("s"): f"{target.id or 'not stored'} {split}".strip(),
    }
    shown = "" if image is None else f'<img src="{_data(image)}" alt="the image">'
    return (
        f'<div class="head">{shown}<div>{_content(target.content)}<h1>{_text(target.words)}</h1>{against}'
        f"{_table(facts)}</div></div>"
        f"<p>{_question(store)}: attribution by TRAK, in units of f, mean over {store.n_checkpoints} checkpoints.</p>"
    )


def _content(content: str) -> str:
    """The text that an example's words are about."""
    return f"<p>{_text(content[:2_000])}</p>" if content else ""


def _question(store: Store) -> str:
    if is_matching(store):
        return "Which training pairs made the models match this image with this caption"
    if classes_of(store):
        return "Which training examples made the models take this for what its label says"
    if is_language(store):
        return "Which training texts made the models answer so"
    return "Which training examples raised and lowered this output"


def _described(target: Target) -> dict[str, str]:
    """What the models make of the target, where the store can tell."""
    found: dict[str, str] = {}
    if target.match is not None:
        match = target.match
        found["probability, caption by image and image by caption"] = f"{match.p[0]:.3f}, {match.p[1]:.3f}"
        found["cosine of image and caption"] = f"{match.similarity:+.3f}"
        if match.rank_image_to_text:  # none for the mean of several pairs
            found["rank of its caption, of its image"] = f"{match.rank_image_to_text:,}, {match.rank_text_to_image:,}"
    if target.guess is not None:
        found["probability of the label"] = f"{target.guess.p_label:.3f}"
        found["predicted"] = f"{target.guess.predicted} ({target.guess.p:.3f})"
    return found


def _removal(store: Store, removed: list[Ranked], prediction: Prediction, measured: Measured | None) -> str:
    facts = {
        "predicted, as a group": f"{prediction.group:+.3f}",
        "predicted, additive": f"{prediction.additive:+.3f}",
        "90 % interval": str(prediction.why_no_interval)
        if prediction.interval is None
        else f"{prediction.interval[0]:+.3f} to {prediction.interval[1]:+.3f}, around {prediction.calibrated:+.3f}",
    }
    if measured is not None:
        each = ", ".join(f"{value:+.2f}" for value in measured.changes)
        facts["measured by retraining"] = f"{measured.change:+.3f} (each seed: {each})"
        if measured.random:
            facts["as many at random"] = f"{sum(measured.random) / len(measured.random):+.3f}"
    shown = removed[:50]
    more = f"<p>and {len(removed) - len(shown):,} more</p>" if len(removed) > len(shown) else ""
    return (
        f"<h2>Change of f without {len(removed):,} training {store.noun}</h2>{_table(facts)}"
        f"<details><summary>The {store.noun}</summary>{_pairs(store, shown, _largest(shown))}{more}</details>"
    )


def _pairs(store: Store, pairs: Sequence[Ranked], largest: float) -> str:
    """Rows of pairs; a bar as long as its column is a score of size `largest`."""
    return (
        "".join(
            f'<div class="row"><small>{place}</small>{_picture(store, pair.row)}'
            f"<div>{_content(pair.content[:400])}{_text(pair.words[:400])}<br><small>{escape(pair.id)}</small>"
            f'<div class="bar {_sign(pair)}" style="width:{100 * abs(pair.score) / largest:.0f}%"></div></div>'
            f'<b class="{_sign(pair)}">{pair.score:+.3g}</b></div>'
            for place, pair in enumerate(pairs, start=1)
        )
        or "<p>None.</p>"
    )


def _picture(store: Store, row: int) -> str:
    return f'<img src="{_data(store.thumbnail(row))}" alt="">' if store.has_pictures else "<span></span>"


def _trust(store: Store) -> str:
    evaluation = kept_evaluation(store)
    words = in_words(evaluation) if evaluation is not None else ["This store has not been evaluated yet."]
    return (
        f"<h2>How far to trust it</h2>{''.join(f'<p>{_text(line)}</p>' for line in words)}"
        f"<h2>Made by</h2><pre>{escape(chr(10).join(commands(store)))}</pre>"
        f'<p class="quiet">TrakLens {escape(store.manifest.libraries.get("traklens", ""))}, store of '
        f"{escape(store.manifest.created)}, TRAK: Park et al. 2023, arXiv 2303.14186.</p>"
    )


def _table(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>"


def _largest(pairs: Sequence[Ranked]) -> float:
    return max((abs(pair.score) for pair in pairs), default=0.0) or 1.0


def _sign(pair: Ranked) -> str:
    return "up" if pair.score >= 0 else "down"


def _text(value: str | None) -> str:
    return f'<bdi dir="auto">{escape(value or "", quote=True)}</bdi>'


def _data(image: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(image).decode()
