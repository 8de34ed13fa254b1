"""Fact tracing on the Evaluate page: which method finds the sentences that state a fact, and which taught it."""

from typing import Any

import streamlit as st

from traklens.app.markup import fixed, notice, number, span, text
from traklens.engine.evaluation.fact_tracing import NAMES
from traklens.engine.evaluation.facts import kept_facts
from traklens.stores.errors import StoreError
from traklens.stores.store import Store

MEASURES = {
    "mrr": "reciprocal rank",
    "recall@1": "recall at 1",
    "recall@10": "recall at 10",
    "precision@10": "precision at 10",
}


def show(store: Store) -> None:
    """Draw what `traklens evaluate --queries` found; nothing where it has not run."""
    try:
        found = kept_facts(store)
    except StoreError as error:
        notice(str(error), kind="error")
        return
    if found is None:
        return
    _headed(
        "Facts traced to sentences",
        f"{found['queries']:,} questions, each with the sentences that state its fact, among {found['sentences']:,}. A "
        "sentence that states a fact need not have taught it: what the models lose without a method's sentences is measured "
        "below.",
    )
    head = "".join(
        f"<th>{name}</th>" for name in ("method", "reciprocal rank", "95 % interval", *list(MEASURES.values())[1:])
    )
    lines = "".join(
        f"<tr><td>{text(NAMES[name])}</td><td>{fixed(row['mrr'])}</td><td>{span(row['lo'], row['hi'])}</td>"
        + "".join(f"<td>{fixed(row[measure])}</td>" for measure in list(MEASURES)[1:])
        + "</tr>"
        for name, row in sorted(found["retrieval"].items(), key=lambda item: -item[1]["mrr"])
    )
    _table(head, lines)
    if found.get("counterfactual"):
        _removals(found)
    else:
        st.html(
            '<div class="tl-quiet">Not measured yet: <code>traklens evaluate … --queries FILE --counterfactual K</code> '
            "trains again without the first K sentences of each method.</div>"
        )


def _removals(found: dict[str, Any]) -> None:
    seeds = f"{found['seeds']} {'seed' if found['seeds'] == 1 else 'seeds'}"
    _headed(
        "Facts forgotten",
        f"Of {found['known']:,} facts that the models know, {found['facts']:,} were drawn. Without the first {found['k']} "
        f"sentences of each method for each of them, models were trained again, {seeds}: how far log p of the answers falls, "
        "and how many facts are lost.",
    )
    names = ("without", "drop of log p", "95 % interval", "facts lost", "sentences", "TRAK's lead on the same facts")
    lines = "".join(
        f"<tr><td>{text(NAMES[name])}</td><td>{row['drop']:.2f}</td><td>{row['lo']:.2f} to {row['hi']:.2f}</td>"
        f"<td>{row['lost']:.1f} of {row['facts']}</td><td>{row['sentences']:,}</td><td>{_lead(name, row)}</td></tr>"
        for name, row in sorted(found["counterfactual"].items(), key=lambda item: -item[1]["drop"])
    )
    _table("".join(f"<th>{name}</th>" for name in names), lines)


def _lead(name: str, row: dict[str, Any]) -> str:
    lead = row.get("behind_trak")
    return "" if lead is None or name == "trak" else f"{number(lead['mean'])} ({span(lead['lo'], lead['hi'])})"


def _headed(title: str, said: str) -> None:
    st.html(f'<div class="tl-head">{title}</div><div class="tl-quiet">{text(said)}</div>')


def _table(head: str, lines: str) -> None:
    st.html(
        f'<div class="tl-scroll"><table class="tl-table"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
