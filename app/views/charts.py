"""Figures. Colours follow the page's: blue raises, orange lowers."""

import numpy as np
import plotly.graph_objects as go

UP, DOWN = "#2f74d0", "#d9652b"


def score_distribution(edges: np.ndarray, counts: np.ndarray, method: str) -> go.Figure:
    """How the scores of the training pairs spread; counts on a log scale, so that single pairs can be seen."""
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
    unit = "attribution, in units of f" if method == "trak" else "cosine similarity"
    figure.update_layout(
        height=210, margin={"l": 0, "r": 0, "t": 8, "b": 0}, bargap=0, showlegend=False, dragmode=False
    )
    figure.update_xaxes(title=unit, zeroline=True, fixedrange=True)
    figure.update_yaxes(title="training pairs", type="log", fixedrange=True, dtick=1, exponentformat="power")
    return figure
