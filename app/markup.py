"""HTML fragments of the page. Every text that comes from data or from a visitor passes through `text`."""

from html import escape

import streamlit as st

from engine.attribution import Ranked, Target

LONGEST = 400  # characters of a caption in a list


def text(value: str, longest: int | None = None) -> str:
    """Any text as inert HTML, isolated from the direction of what surrounds it."""
    if longest is not None and len(value) > longest:
        value = value[:longest].rstrip() + " …"
    return f'<bdi dir="auto">{escape(value, quote=True)}</bdi>'


def picture(row: int, version: int, size: str = "thumb") -> str:
    """The address of a stored picture; the version changes when the store is built again."""
    return f"/app/static/{size}/{row}.webp?v={version}"


def notice(message: str, kind: str = "info") -> None:
    """A message in a box; the text is shown as it is."""
    role = "alert" if kind == "error" else "status"
    st.html(f'<div class="tl-notice tl-{kind}" role="{role}">{text(message)}</div>')


def number(value: float) -> str:
    """A signed number with three significant digits, a true minus sign and no exponent where it can be helped."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = f"{size:.1e}" if size < 1e-3 or size >= 1e5 else f"{size:.3g}"
    return ("−" if value < 0 else "+") + digits


def span(low: float, high: float) -> str:
    """An interval with three decimals and true minus signs."""
    return f"{low:.3f} to {high:.3f}".replace("-", "−")


def ranked_card(pair: Ranked, place: int, largest: float, version: int, *, chips: tuple[str, ...] = ()) -> str:
    """One row of a ranking: place, picture, signed bar in proportion to `largest`, caption, chips."""
    width = 0.0 if largest <= 0 else min(100.0, 100 * abs(pair.score) / largest)
    sign = "up" if pair.score >= 0 else "down"
    labels = "".join(f'<span class="tl-chip">{escape(chip)}</span>' for chip in chips)
    return (
        f'<div class="tl-row"><span class="tl-place">{place}</span>'
        f'<img class="tl-thumb" src="{picture(pair.row, version)}" alt="" loading="lazy">'
        f'<div class="tl-body"><div class="tl-score"><span class="tl-track"><span class="tl-bar tl-{sign}"'
        f' style="width:{width:.1f}%"></span></span><span class="tl-number tl-{sign}-ink">{number(pair.score)}</span></div>'
        f'<div class="tl-caption">{text(pair.caption, LONGEST)}{labels}</div></div></div>'
    )


def browse_card(row: int, caption: str, version: int, chosen: bool) -> str:
    """One cell of the grid of pairs."""
    return (
        f'<div class="tl-cell{" tl-chosen" if chosen else ""}"><img src="{picture(row, version)}" alt="" loading="lazy">'
        f'<div class="tl-cell-caption">{text(caption, 90)}</div></div>'
    )


def target_card(target: Target, image: str, chips: tuple[str, ...], rivals: tuple[int, int]) -> str:
    """The pair in question: picture, caption, and how well the models match the two.

    image: an address or a data URL; rivals: how many captions and images the ranks are counted among.
    """
    facts = [
        ("Similarity", f"{target.similarity:.3f}".replace("-", "−"), "mean cosine of image and caption"),
        ("Its caption ranks", _place(target.rank_image_to_text, rivals[0]), "for the image, among all captions"),
        ("Its image ranks", _place(target.rank_text_to_image, rivals[1]), "for the caption, among all images"),
        ("Model output f", number(target.f), "log odds of the match" if not target.contrast else "difference of f"),
        ("Probability p", f"{target.p[0]:.2f} · {target.p[1]:.2f}", "caption by image · image by caption"),
    ]
    cells = "".join(
        f'<div class="tl-fact"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><small>{escape(unit)}</small></div>'
        for name, value, unit in facts
    )
    labels = "".join(f'<span class="tl-chip">{escape(chip)}</span>' for chip in chips)
    against = f'<div class="tl-against">rather than “{text(target.contrast)}”</div>' if target.contrast else ""
    return (
        f'<section class="tl-target"><img class="tl-picture" src="{escape(image, quote=True)}" alt="the chosen image">'
        f'<div class="tl-about"><div class="tl-title">{text(target.caption)}</div>{against}<div>{labels}</div>'
        f'<dl class="tl-facts">{cells}</dl></div></section>'
    )


def _place(rank: int, among: int) -> str:
    return f"{rank:,} of {max(rank, among):,}"
