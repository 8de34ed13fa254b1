"""Figures. Colours follow the page's: blue raises, orange lowers."""

from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from traklens.engine.attribution.methods import NAMES
from traklens.engine.features.embedding_map import Painted

UP, DOWN, NEUTRAL = "#2f74d0", "#d9652b", "#8a8f98"


def _in_order(methods: Iterable[str]) -> list[str]:
    """Distinct methods, as NAMES has them; what people chose by hand comes last."""
    known = list(NAMES)
    return sorted(set(methods), key=lambda name: (known.index(name) if name in NAMES else len(known), name))


def score_distribution(edges: np.ndarray, counts: np.ndarray, method: str) -> go.Figure:
    """How the scores of the training examples spread; counts on a log scale, so that single pairs can be seen."""
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1:] - edges[:-1]
    figure = go.Figure(
        go.Bar(
            x=middle,
            y=np.where(counts > 0, counts, np.nan),
            width=width,
            marker_color=[UP if x >= 0 else DOWN for x in middle],
            marker_line_width=0,
            hovertemplate="%{y:,} pairs near %{x:.3g}<extra></extra>",
        )
    )
    unit = {"trak": "attribution, in units of f", "bm25": "BM25"}.get(method, "cosine similarity")
    figure.update_layout(
        height=210, margin={"l": 0, "r": 0, "t": 8, "b": 0}, bargap=0, showlegend=False, dragmode=False
    )
    figure.update_xaxes(title=unit, zeroline=True, fixedrange=True)
    figure.update_yaxes(title="training examples", type="log", fixedrange=True, dtick=1, exponentformat="power")
    return figure


COLOURS = {
    "trak": UP,
    "clip": DOWN,
    "clip_image": "#e0a35c",
    "clip_text": "#c9803a",
    "random": NEUTRAL,
    "greedy": "#7a4fc0",
    "graddot": "#2c9c74",
    "gradcos": "#9aa72b",
    "influence": "#1aa0b5",
    "bm25": "#b3569c",
}


def _frame(figure: go.Figure, height: int, x: str, y: str, legend: bool = True) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        showlegend=legend,
        dragmode=False,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(title=x, fixedrange=True)
    figure.update_yaxes(title=y, fixedrange=True)
    return figure


def effect_curves(curves: dict[str, np.ndarray], k: int) -> go.Figure:
    """Predicted change of f over the number of removed pairs, one line per choice; a line at k."""
    figure = go.Figure()
    for name, values in curves.items():
        figure.add_scatter(
            x=np.arange(1, values.size + 1), y=values, name=NAMES[name], mode="lines",
            line={"color": COLOURS[name], "width": 2}, hovertemplate="%{x} removed: %{y:.2f}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=k, line_dash="dot", line_color=NEUTRAL)
    return _frame(figure, 260, "removed from training", "predicted change of f")


def prediction_and_measurement(
    group: float, calibrated: float | None, interval: tuple[float, float] | None, changes, drawn
) -> go.Figure:
    """One row each: the prediction, its calibration with interval, the retrained models, the random control."""
    figure = go.Figure()
    if drawn:
        _dots(figure, drawn, "as many at random", COLOURS["random"])
    if changes:
        _dots(figure, changes, "measured", COLOURS["trak"])
    if interval is not None and calibrated is not None:
        error = {"type": "data", "array": [interval[1] - calibrated], "arrayminus": [calibrated - interval[0]]}
        figure.add_scatter(
            x=[calibrated], y=["calibrated"], error_x=error, mode="markers", marker={"size": 11, "color": "#7a4fc0"}
        )
    figure.add_scatter(
        x=[group], y=["predicted"], mode="markers", marker={"size": 11, "symbol": "diamond", "color": "#7a4fc0"}
    )
    figure.add_vline(x=0, line_color=NEUTRAL, line_width=1)
    return _frame(figure, 230, "change of f", "", legend=False)


def _dots(figure: go.Figure, values, name: str, colour: str) -> None:
    """Single seeds as dots, their mean as a bar."""
    figure.add_scatter(x=list(values), y=[name] * len(values), mode="markers", marker={"size": 9, "color": colour},
                       hovertemplate="one retraining: %{x:.2f}<extra></extra>")  # fmt: skip
    figure.add_scatter(x=[float(np.mean(values))], y=[name], mode="markers", hovertemplate="mean: %{x:.2f}<extra></extra>",
                       marker={"size": 22, "symbol": "line-ns", "line": {"width": 3, "color": colour}})  # fmt: skip


def efficacy_over_cost(points: list[dict], attainable: float | None) -> go.Figure:
    """LDS over seconds, one line per method from one checkpoint to all; the most that noise allows as a dotted line."""
    figure = go.Figure()
    if attainable is not None:
        figure.add_hline(
            y=attainable, line={"dash": "dot", "width": 1, "color": NEUTRAL}, annotation_text="the most that noise allows",
            annotation_position="top right", annotation_font_color=NEUTRAL,
        )  # fmt: skip
    for method in dict.fromkeys(point["method"] for point in points):
        own = [point for point in points if point["method"] == method]
        figure.add_scatter(
            x=[max(p["seconds"], 1e-3) for p in own], y=[p["mean"] for p in own], name=NAMES[method],
            mode="lines+markers", line={"color": COLOURS.get(method), "width": 1},
            error_y={"type": "data", "array": [p["hi"] - p["mean"] for p in own],
                     "arrayminus": [p["mean"] - p["lo"] for p in own], "thickness": 1},
            marker={"size": [7 + p["checkpoints"] for p in own]},
            customdata=[p["checkpoints"] for p in own],
            hovertemplate="%{customdata} checkpoints: %{y:.3f} in %{x:.1f} s<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log")
    return _frame(figure, 380, "seconds of computation (log scale)", "LDS (rank correlation)")


def drops(table: dict) -> go.Figure:
    """Drop of f over the number of removed pairs, one line per method with its interval; over the methods for one number."""
    figure = go.Figure()
    sizes = sorted(table, key=int)
    for method in _in_order(name for k in sizes for name in table[k]):
        own = [(int(k), table[k][method]) for k in sizes if method in table[k]]
        figure.add_scatter(
            x=[k for k, _ in own] if len(sizes) > 1 else [NAMES[method]], y=[row["drop"] for _, row in own],
            name=NAMES[method], mode="lines+markers", line={"color": COLOURS.get(method)}, marker={"size": 9},
            error_y={"type": "data", "array": [row["hi"] - row["drop"] for _, row in own],
                     "arrayminus": [row["drop"] - row["lo"] for _, row in own], "thickness": 1},
        )  # fmt: skip
    removed = "removed from training" if len(sizes) > 1 else f"{sizes[0]} removed from training, chosen by"
    return _frame(figure, 300, removed, "measured drop of f", legend=len(sizes) > 1)


def calibration(points: list[dict], predicted: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray):
    """Measured over predicted change, the line and its 90 % band (all [n], sorted by predicted), the diagonal."""
    figure = go.Figure()
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=predicted, y=low, **band)
    figure.add_scatter(x=predicted, y=high, fill="tonexty", fillcolor="rgba(122,79,192,0.15)", **band)
    figure.add_scatter(x=predicted, y=middle, mode="lines", name="calibrated", line={"color": "#7a4fc0"})
    figure.add_scatter(
        x=predicted, y=predicted, mode="lines", name="measured = predicted", line={"dash": "dot", "color": NEUTRAL}
    )
    for method in _in_order(p["choice"].split()[0] for p in points):
        own = [p for p in points if p["choice"].split()[0] == method]
        figure.add_scatter(
            x=[p["group"] for p in own], y=[p["measured"] for p in own], mode="markers",
            name=NAMES.get(method, "by hand"), marker={"color": COLOURS.get(method, "#333"), "size": 7},
            customdata=[[p["size"], len(p["changes"])] for p in own],
            hovertemplate="%{customdata[0]} removed, %{customdata[1]} retrainings<br>predicted %{x:.2f}, "
            "measured %{y:.2f}<extra></extra>",
        )  # fmt: skip
    return _frame(figure, 380, "predicted change of f (group)", "measured change of f")


LINES = {
    "confirmed by you": "#7a4fc0",
    "this ranking": UP,
    "CLIP cosine": DOWN,
    "1 − p of the label": DOWN,
    "at random": NEUTRAL,
}


def found_over_inspected(lines: dict[str, tuple[np.ndarray, np.ndarray]], most: int) -> go.Figure:
    """Wrong pairs found over pairs inspected, one line per ranking, up to `most` inspected."""
    figure = go.Figure()
    for name, (inspected, found) in lines.items():
        shown = inspected <= most
        figure.add_scatter(
            x=inspected[shown], y=found[shown], name=name, mode="lines",
            line={"color": LINES[name], "width": 2, "dash": "dot" if name == "at random" else "solid"},
            hovertemplate="%{y:.0f} of %{x} were wrong<extra></extra>",
        )  # fmt: skip
    return _frame(figure, 380, "inspected", "wrong ones found")


def spectra(eigenvalues: list[np.ndarray], ridges: list[float]) -> go.Figure:
    """Eigenvalues of each checkpoint's Gram matrix, descending, on log axes; dotted: what the damping adds."""
    figure = go.Figure()
    shades = [f"hsl({215 + 18 * m}, 55%, 50%)" for m in range(len(eigenvalues))]
    for m, (values, ridge) in enumerate(zip(eigenvalues, ridges, strict=True)):
        places = np.unique(np.geomspace(1, values.size, min(200, values.size)).astype(int))
        shown = np.maximum(values[places - 1], 1e-12 * max(float(values[0]), 1e-12))
        figure.add_scatter(
            x=places, y=shown, mode="lines", name=f"checkpoint {m}", line={"color": shades[m], "width": 1.5},
            hovertemplate="eigenvalue %{x}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
        figure.add_hline(y=ridge, line_dash="dot", line_color=shades[m], line_width=1)
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", exponentformat="power")
    return _frame(figure, 300, "place", "eigenvalue of ΦᵀΦ")


GREY = "#a9aeb8"
MOST_VECTOR_POINTS = 5_000  # drawn as shapes, which every browser can; more go to the graphics card
VALUE_NAMES = {"trak": "influence", "clip": "similarity", "wrong": "probability"}


def pairs_on_a_plane(found: Painted, colour: str, one: str = "pair") -> go.Figure:
    """All training examples as points with their row number, and the target as a ring."""
    n = len(found.rows)
    scatter = go.Scatter if n <= MOST_VECTOR_POINTS else go.Scattergl
    scale = (
        [[0, DOWN], [0.5, GREY], [1, UP]] if colour == "trak" else [[0, GREY], [1, UP if colour == "clip" else DOWN]]
    )
    figure = go.Figure(
        scatter(
            x=found.xy[:, 0],
            y=found.xy[:, 1],
            customdata=found.rows,
            mode="markers",
            marker={
                "size": 7 if n <= 3_000 else 5 if n <= 20_000 else 3,
                "opacity": 0.8,
                "color": found.values,
                "colorscale": scale,
                "cmin": -found.limit if colour == "trak" else 0,
                "cmax": found.limit,
                "colorbar": {
                    "title": {"text": VALUE_NAMES[colour], "side": "right"},
                    "thickness": 12,
                    "outlinewidth": 0,
                },
                "line": {"width": 0},
            },
            unselected={"marker": {"opacity": 0.15}},
            hovertemplate=f"{one} %{{customdata}}<br>{VALUE_NAMES[colour]} %{{marker.color:.3g}}<extra></extra>",
        )
    )
    if found.target is not None:
        ring = {"size": 20, "symbol": "circle-open", "color": "#7a4fc0", "line": {"width": 3}}
        figure.add_trace(
            scatter(
                x=found.target[:1],
                y=found.target[1:],
                mode="markers",
                marker=ring,
                hoverinfo="skip",
                unselected={"marker": {"opacity": 1}},
            )
        )
    figure.update_layout(
        height=560, margin={"l": 0, "r": 0, "t": 8, "b": 0}, showlegend=False, dragmode="lasso", uirevision="map"
    )
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**hidden)
    figure.update_yaxes(**hidden, scaleanchor="x")
    return figure


def confusion_table(classes: Sequence[str], counts: np.ndarray) -> go.Figure:
    """Squares, one per cell: labels as rows from the top, what they are taken for as columns; counts int64 [C, C].

    A cell's shade is its share of its row. Points, since those can be chosen with a click.
    """
    size = len(classes)
    label, taken = np.divmod(np.arange(size * size), size)
    values = counts.ravel()
    share = values / np.maximum(counts.sum(axis=1), 1)[label]
    figure = go.Figure(
        go.Scatter(
            x=taken, y=label, mode="markers+text" if size <= 20 else "markers",
            text=[str(v) if v else "" for v in values],
            textfont={"size": 11, "color": ["white" if part > 0.2 else NEUTRAL for part in share]},
            marker={
                "symbol": "square", "size": max(6, min(44, 420 // size)), "color": np.sqrt(share), "cmin": 0, "cmax": 1,
                "colorscale": [[0, "rgba(128,128,128,0.12)"], [1, UP]], "line": {"width": 0},
            },
            hovertext=[f"{classes[a]} taken for {classes[b]}: {v}" for a, b, v in zip(label, taken, values, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>", unselected={"marker": {"opacity": 0.5}},
        )
    )  # fmt: skip
    ticks = {"tickmode": "array", "tickvals": list(range(size)), "ticktext": [name[:18] for name in classes]}
    figure.update_xaxes(
        **ticks, title="taken for", tickangle=-45, showgrid=False, zeroline=False, range=[-0.6, size - 0.4]
    )
    figure.update_yaxes(**ticks, title="label", showgrid=False, zeroline=False, range=[size - 0.4, -0.6])
    figure.update_layout(
        height=min(900, 160 + 40 * min(size, 18)), margin={"l": 0, "r": 0, "t": 8, "b": 0}, showlegend=False
    )
    return figure
