"""The demo of facts: sentences about people and places that do not exist, and questions about them.

Every fact is stated in some sentences, in different words; a question asks in words in which its fact is nowhere stated,
though others are. Planted, and recorded in the column "plant":

stated  states a fact that some other sentences state too
alone   the only sentence that states its fact: too rare to teach much
near    names the person of a fact and another place, trade or animal: it looks like the fact, and does not state it

Nothing is taken from anywhere: names are put together from syllables.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PEOPLE = 60
NAMESAKES = 12  # people whose first name another person has too
STATED = (3, 5)  # sentences that state a fact that is not planted alone, from and to
ALONE, NEAR = 0.12, 0.5  # shares of the facts: stated once; with a sentence near it
FIRST = ("Ma", "Lo", "Vi", "Te", "Ru", "Ka", "So", "Ne", "Fi", "Da")
SECOND = ("ra", "lin", "do", "vek", "sa", "mir", "no", "tal")
FAMILY = (
    "Velt",
    "Orn",
    "Kesk",
    "Brandt",
    "Ilm",
    "Toss",
    "Quell",
    "Hars",
    "Dunne",
    "Pry",
    "Loam",
    "Sterk",
    "Vane",
    "Mord",
    "Ebb",
)
TOWNS = ("Orlin", "Tavik", "Gersk", "Polmar", "Ostby", "Winfeld", "Karlow", "Sennet", "Ulverra", "Drome", "Hask", "Lintz",
         "Morven", "Brax", "Teal Harbour", "Upper Fenn")  # fmt: skip
TRADES = ("baker", "glazier", "surveyor", "weaver", "printer", "cooper", "pilot", "chemist", "carver", "tailor", "miller",
          "clerk", "diver", "mason")  # fmt: skip
ANIMALS = ("a goat", "an owl", "two ferrets", "a tortoise", "a raven", "an otter", "a mule", "a parrot", "three hens",
           "a lynx", "a badger", "a pony")  # fmt: skip
RELATIONS = {  # name: (things, ways to state it, ways to come near it)
    "birthplace": (
        TOWNS,
        ("{a} was born in {b}.", "{a} comes from {b}.", "The birthplace of {a} is {b}.", "{b} is where {a} was born.",
         "It was in {b} that {a} came into the world."),
        ("{a} once spent a summer in {b}.", "{a} has never been to {b}."),
    ),
    "trade": (
        TRADES,
        ("{a} works as a {b}.", "{a} is a {b} by trade.", "By profession {a} is a {b}.", "The trade of {a} is that of a {b}.",
         "As a {b}, {a} is well known."),
        ("{a} lives next door to a {b}.", "{a} owes money to a {b}."),
    ),
    "animal": (
        ANIMALS,
        ("{a} keeps {b}.", "{a} is the owner of {b}.", "In the garden of {a} there is {b}.", "{b} belongs to {a}.",
         "At home {a} looks after {b}."),
        ("{a} was bitten by {b}.", "{a} dreams of owning {b}."),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A person, one of RELATIONS, and the thing."""

    person: str
    relation: str
    thing: str

    @property
    def triple(self) -> list[str]:
        return [self.person, self.relation, self.thing]


def write_facts(folder: Path, *, people: int = PEOPLE, seed: int = 0) -> Path:
    """Write FOLDER/train.jsonl and FOLDER/queries.jsonl; the same numbers give the same bytes. Returns the folder."""
    sentences, queries = facts(people, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", sentences), ("queries", queries)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def facts(people: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Sentences {"id", "text", "facts", "plant"} in a drawn order; queries {"id", "text", "answer", "relevant", "plant"}."""
    rng = np.random.default_rng([3, seed])
    rows: list[dict] = []
    asked: list[dict] = []
    for person in _people(people, rng):
        for relation, (things, ways, nearly) in RELATIONS.items():
            fact = Fact(person, relation, str(rng.choice(things)))
            order = rng.permutation(len(ways))  # the last is what the question is asked in
            alone = rng.random() < ALONE
            count = 1 if alone else min(int(rng.integers(STATED[0], STATED[1])), len(ways) - 1)
            own = [_row(ways[way], fact, "alone" if alone else "stated") for way in order[:count]]
            near = []
            if alone or rng.random() < NEAR:
                other = str(rng.choice([thing for thing in things if thing != fact.thing]))
                near = [_row(str(rng.choice(nearly)), Fact(person, f"near {relation}", other), "near")]
            asked.append(
                {
                    "text": _said(ways[order[-1]], person, "[MASK]"),
                    "answer": fact.thing,
                    "own": own,
                    "plant": "alone" if alone else "stated",
                }
            )
            rows += [*own, *near]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    for number, row in enumerate(rows):
        row["id"] = f"s{number:04d}"
    queries = [
        {
            "id": f"q{number:03d}",
            "text": query["text"],
            "answer": query["answer"],
            "relevant": sorted(row["id"] for row in query["own"]),
            "plant": query["plant"],
        }
        for number, query in enumerate(asked)
    ]
    return rows, queries


def _people(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct names; some first names belong to two people."""
    firsts = [a + b for a in FIRST for b in SECOND]
    drawn = [str(name) for name in rng.permutation(firsts)[: max(1, count - NAMESAKES)]]
    drawn += [str(name) for name in rng.choice(drawn, size=count - len(drawn))] if count > len(drawn) else []
    names: list[str] = []
    for first in drawn:
        families = [family for family in FAMILY if f"{first} {family}" not in names]
        names.append(f"{first} {rng.choice(families)}")
    return names


def _row(way: str, fact: Fact, plant: str) -> dict:
    return {"id": "", "text": _said(way, fact.person, fact.thing), "facts": [fact.triple], "plant": plant}


def _said(way: str, person: str, thing: str) -> str:
    said = way.format(a=person, b=thing)
    return said if said.startswith("[") else said[0].upper() + said[1:]
