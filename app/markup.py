"""HTML fragments of the page. Every text that comes from data or from a visitor passes through `text`."""

import os
import re
from collections.abc import Sequence
from html import escape

import streamlit as st

from traklens.app.words import Words
from traklens.engine.attribution.scores import Ranked, Target
from traklens.engine.attribution.shades import Shade

BASE_VARIABLE = "TRAKLENS_BASE_PATH"  # below which the pages are served, empty or "/lab/traklens"
LONGEST = 400  # characters of a caption in a list
LONGEST_CONTENT = 10_000  # characters of a text in large
MOST_TINT = 45  # percent of a colour behind the word that contributes most


def text(value: str, longest: int | None = None) -> str:
    """Any text as inert HTML, isolated from the direction of what surrounds it."""
    if longest is not None and len(value) > longest:
        value = value[:longest].rstrip() + " …"
    return f'<bdi dir="auto">{escape(value, quote=True)}</bdi>'


def plain(value: str) -> str:
    """A text for a label that Streamlit reads as Markdown, which shows it as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", value)


def title(caption: str, span: tuple[int, int] | None = None) -> str:
    """A caption in large, the characters of `span` marked; a long one scrolls, by keyboard too."""
    scrolls = ' tl-long" tabindex="0" role="region" aria-label="caption' if len(caption) > LONGEST / 2 else ""
    return f'<div class="tl-title{scrolls}"><div role="heading" aria-level="1">{_marked(caption, span)}</div></div>'


def _marked(value: str, span: tuple[int, int] | None) -> str:
    if span is None:
        return text(value)
    before, inside, after = (escape(part) for part in (value[: span[0]], value[slice(*span)], value[span[1] :]))
    return f'<bdi dir="auto">{before}<mark class="tl-mark">{inside}</mark>{after}</bdi>'


def picture(row: int, version: int, size: str = "thumb") -> str:
    """The address of a stored picture; the version changes when the store is built again.

    A version below zero is that of a store without pictures: no address.
    """
    if version < 0:
        return ""
    return f"{os.environ.get(BASE_VARIABLE, '')}/app/static/{size}/{row}.webp?v={version}"


def image(source: str, kind: str, alt: str = "", *, lazy: bool = False) -> str:
    """An image of a class of ours; nothing without a source."""
    loading = ' loading="lazy"' if lazy else ""
    named = f' class="{kind}"' if kind else ""
    return (
        f'<img{named} src="{escape(source, quote=True)}" alt="{escape(alt, quote=True)}"{loading}>' if source else ""
    )


def notice(message: str, kind: str = "info") -> None:
    """A message in a box; the text is shown as it is, `commands` and other names between backticks as code."""
    role = "alert" if kind == "error" else "status"
    shown = re.sub("`([^`]+)`", r"<code>\1</code>", text(message))
    st.html(f'<div class="tl-notice tl-{kind}" role="{role}">{shown}</div>')


def number(value: float) -> str:
    """A signed number with three significant digits, a true minus sign and no exponent where it can be helped."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = f"{size:.1e}" if size < 1e-3 or size >= 1e5 else f"{size:.3g}"
    return ("−" if value < 0 else "+") + digits


def span(low: float, high: float) -> str:
    """An interval with three decimals and true minus signs."""
    return f"{fixed(low)} to {fixed(high)}"


def fixed(value: float) -> str:
    """A number with three decimals and a true minus sign."""
    return f"{value:.3f}".replace("-", "−")


def shaded_text(value: str, words: Sequence[Shade], largest: float) -> str:
    """A text whose words have a tint in proportion to `largest`, their numbers on hover; the strongest are told in words."""
    shown, parts, end = value[:LONGEST], [], 0
    for word in words:
        if word.start >= len(shown):
            break
        size = 0.0 if largest <= 0 else min(1.0, abs(word.score) / largest)
        sign = "up" if word.score >= 0 else "down"
        piece = shown[word.start : word.end]
        lead = len(piece) - len(piece.lstrip())
        parts.append(escape(shown[end : word.start] + piece[:lead]))
        parts.append(
            f'<span class="tl-shade tl-shade-{sign}" style="--tl-share:{MOST_TINT * size:.0f}%" title="{number(word.score)}">'
            f"{escape(piece[lead:])}</span>"
        )
        end = word.end
    rest = escape(shown[end:]) + (" …" if len(value) > LONGEST else "")
    strongest = sorted(words, key=lambda word: -abs(word.score))[:3]
    told = ", ".join(
        f"{value[word.start : word.end].strip()} {number(word.score)}" for word in strongest if word.score
    )
    hidden = f'<span class="tl-hidden"> (strongest words: {escape(told)})</span>' if told else ""
    return f'<bdi dir="auto">{"".join(parts)}{rest}</bdi>{hidden}'


def content(value: str, longest: int = LONGEST) -> str:
    """The text of an example that its words are about; nothing without one."""
    return f'<div class="tl-content">{text(value, longest)}</div>' if value else ""


def ranked_card(
    pair: Ranked,
    place: int,
    largest: float,
    version: int,
    *,
    chips: tuple[str, ...] = (),
    shaded: tuple[str, str] = ("", ""),
) -> str:
    """One row of a ranking: place, picture, signed bar in proportion to `largest`, caption, chips.

    shaded: the HTML of its content and of its words, where these are drawn otherwise than plainly.
    """
    width = 0.0 if largest <= 0 else min(100.0, 100 * abs(pair.score) / largest)
    sign = "up" if pair.score >= 0 else "down"
    labels = "".join(f'<span class="tl-chip">{escape(chip)}</span>' for chip in chips)
    about = f'<div class="tl-content">{shaded[0]}</div>' if shaded[0] else content(pair.content)
    return (
        f'<div class="tl-row"><span class="tl-place">{place}</span>'
        f"{image(picture(pair.row, version), 'tl-thumb', lazy=True) or '<span></span>'}"
        f'<div class="tl-body"><div class="tl-score"><span class="tl-track"><span class="tl-bar tl-{sign}"'
        f' style="width:{width:.1f}%"></span></span><span class="tl-number tl-{sign}-ink">{number(pair.score)}</span></div>'
        f"{about}"
        f'<div class="tl-caption">{shaded[1] or text(pair.words, LONGEST)}{labels}</div></div></div>'
    )


def browse_card(row: int, caption: str, version: int, chosen: bool, about: str = "") -> str:
    """One cell of the grid of pairs."""
    return (
        f'<div class="tl-cell{" tl-chosen" if chosen else ""}">{image(picture(row, version), "", lazy=True)}'
        f'{content(about, 90)}<div class="tl-cell-caption">{text(caption, 90)}</div></div>'
    )


def tray_card(rows: list[int], total: int, version: int, words: Words) -> str:
    """The pictures of picked examples, the first of them, and how many there are."""
    pictures = "".join(image(picture(row, version), "", f"picked {words.one} {row}", lazy=True) for row in rows)
    more = f"<span>+{total - len(rows):,}</span>" if total > len(rows) else ""
    return (
        f'<div class="tl-tray"><div class="tl-quiet"><b>{words.count(total)} picked</b></div>'
        f"<div>{pictures}{more}</div></div>"
    )


def picked_card(pair: Ranked, version: int, chosen: bool) -> str:
    """One cell of a grid of selected pairs, with its influence."""
    sign = "up" if pair.score >= 0 else "down"
    return (
        f'<div class="tl-cell{" tl-chosen" if chosen else ""}">{image(picture(pair.row, version), "", lazy=True)}'
        f'<div class="tl-cell-score tl-{sign}-ink">{number(pair.score)}</div>'
        f'{content(pair.content, 90)}<div class="tl-cell-caption">{text(pair.words, 90)}</div></div>'
    )


def target_line(target: Target, source: str) -> str:
    """The example in question in one line."""
    against = f' <span class="tl-quiet">rather than “{text(target.contrast)}”</span>' if target.contrast else ""
    return (
        f'<section class="tl-target tl-target-small">{image(source, "tl-thumb", "the chosen image")}'
        f'<div class="tl-about">{content(target.content, 160)}{title(target.words)}{against}</div>'
        "</section>"
    )


def target_card(target: Target, source: str, chips: tuple[str, ...], rivals: tuple[int, int]) -> str:
    """The example in question: picture, words, and what the models make of it.

    source: an address or a data URL, empty without a picture; rivals: how many captions and images the ranks of a pair are
    counted among.
    """
    cells = "".join(
        f'<div class="tl-fact"><dt>{escape(name)}</dt><dd>{text(value, 60)}<small>{escape(unit)}</small></dd></div>'
        for name, value, unit in _facts(target, rivals)
    )
    labels = "".join(f'<span class="tl-chip">{escape(chip)}</span>' for chip in chips)
    against = f'<div class="tl-against">rather than “{text(target.contrast)}”</div>' if target.contrast else ""
    return (
        f'<section class="tl-target">{image(source, "tl-picture", "the chosen image")}'
        f'<div class="tl-about">{content(target.content, LONGEST_CONTENT)}{title(target.words, target.span)}{against}'
        f"<div>{labels}</div>"
        f'<dl class="tl-facts">{cells}</dl></div></section>'
    )


def _facts(target: Target, rivals: tuple[int, int]) -> list[tuple[str, str, str]]:
    """Name, value and unit of what the models make of a target."""
    if target.match is not None:
        match = target.match
        return [
            ("Similarity", f"{match.similarity:.3f}".replace("-", "−"), "mean cosine of image and caption"),
            ("Its caption ranks", _place(match.rank_image_to_text, rivals[0]), "for the image, among all captions"),
            ("Its image ranks", _place(match.rank_text_to_image, rivals[1]), "for the caption, among all images"),
            ("Model output f", number(target.f), "difference of f" if target.contrast else "log odds of the match"),
            ("Probability p", f"{match.p[0]:.2f} · {match.p[1]:.2f}", "caption by image · image by caption"),
        ]
    difference = "difference of f" if target.contrast else None
    if target.guess is None:
        return [("Model output f", number(target.f), difference or "mean over the checkpoints")]
    guess = target.guess
    return [
        ("Taken for", guess.predicted, f"p = {guess.p:.2f}, mean over the checkpoints"),
        ("Probability p", f"{guess.p_label:.2f}", "of this label"),
        ("Model output f", number(target.f), difference or "log odds of the label"),
    ]


def story_card(sentences: list[str], trust: str) -> str:
    """What is worth seeing, and in smaller print how far to trust it."""
    return f'<div class="tl-story">{text(" ".join(sentences))}<div class="tl-quiet">{text(trust)}</div></div>'


def facts_table(facts: list[tuple[str, str]]) -> str:
    """Names and values, one per line."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{text(value, 400)}</td></tr>" for name, value in facts)
    return f'<div class="tl-scroll"><table class="tl-table tl-pairs"><tbody>{rows}</tbody></table></div>'


def suspect_card(
    row: int,
    id: str,
    caption: str,
    version: int,
    *,
    place: str,
    probability: float | None,
    chips: tuple[str, ...] = (),
    about: str = "",
) -> str:
    """The pair under review: picture in large, caption, its place in the queue, how likely it is wrong, what was decided."""
    likely = (
        ""
        if probability is None
        else f'<span class="tl-chip tl-chip-strong">{_share(probability)} likely wrong</span>'
    )
    labels = "".join(f'<span class="tl-chip">{text(chip, 120)}</span>' for chip in chips)
    return (
        f'<section class="tl-suspect" data-pair="{escape(id)}">'
        f"{image(picture(row, version, 'large'), 'tl-suspect-picture', 'the image under review')}"
        f'<div class="tl-quiet tl-suspect-place">{escape(place)}</div>'
        f"{content(about, LONGEST_CONTENT)}{title(caption)}"
        f"<div>{likely}{labels}</div></section>"
    )


def _share(probability: float) -> str:
    return "over 99%" if probability > 0.99 else f"{probability:.0%}"


def legend(keys: dict[str, str]) -> str:
    """What each key does."""
    rows = "".join(f"<kbd>{escape(key)}</kbd><span>{escape(what)}</span>" for key, what in keys.items())
    return f'<div class="tl-keys">{rows}</div>'


def why_suspect(reasons: list[tuple[str, float]], many: str = "pairs") -> str:
    """Each signal as a bar of its percentile among the training examples."""
    rows = "".join(
        f'<div class="tl-why"><span>{escape(name)}</span><span class="tl-track"><span class="tl-bar tl-down" '
        f'style="width:{percentile:.1f}%"></span></span><span class="tl-number">{min(percentile, 99.9):.1f}</span></div>'
        for name, percentile in reasons
    )
    return f'<div class="tl-head">Why it is suspect</div><div class="tl-quiet">percentile among training {many}</div>{rows}'


def suggested(captions: list[str], what: str = "caption") -> str:
    """The likeliest other caption (label), and further ones."""
    if not captions:
        return ""
    others = "".join(f"<li>{text(caption, 160)}</li>" for caption in captions[1:])
    return (
        f'<div class="tl-head">Likelier {what}</div><div class="tl-suggestion">{text(captions[0], 300)}</div>'
        f'<ul class="tl-quiet tl-others">{others}</ul>'
    )


def _place(rank: int, among: int) -> str:
    return f"{rank:,} of {max(rank, among):,}"
