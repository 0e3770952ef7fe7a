"""From ESCI's tables to distinct US queries and distinct titles, with a record of every row that is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stoical.common.ids import as_id

from ..dropped import Dropped
from ..tables import Table
from .files import EsciSource

LOCALE = "us"
PUBLISHED = {"queries": 130_192, "products": 1_802_771, "pairs": 2_621_284}
"""Distinct query texts, products and judged pairs of the full dataset, all locales."""
LABELS = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}


@dataclass
class Texts:
    """Distinct texts in the order of the data: parallel lists. `split` is None where the data has no such column."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    locale: list[str] = field(default_factory=list)
    split: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, number: str, text: str, where: str, locale: str, split: str | None = None) -> None:
        """Append one text."""
        self.ids.append(number)
        self.texts.append(text)
        self.where.append(where)
        self.locale.append(locale)
        self.split.append(split)


def collect_queries(tables: list[Table], dropped: Dropped) -> Texts:
    """The distinct queries of the US, with `query_id` where the data has one, else where they stand.

    Rows of other locales and rows without a query are noted and left out. A query that occurs in two splits stays in
    the first. Raises ValueError where one query_id has two queries, or where there is no US query at all.
    """
    found, owner = Texts(), dict[str, int]()
    splits: dict[str, str | None] = {}
    for table, row, (query, locale, number, split) in _rows(tables, "query", "product_locale", "query_id", "split"):
        text = " ".join((query or "").split())
        if locale != LOCALE or not text:
            dropped.add("no query" if locale == LOCALE else _elsewhere("query", locale), table.where(row), query)
        elif text in splits:
            if splits[text] != split:
                dropped.add("query of another split again", table.where(row), text)
        else:
            splits[text] = split
            query_id = as_id(number, table.where(row), "query_id") or table.where(row)
            if owner.setdefault(query_id, len(found)) != len(found):
                before = owner[query_id]
                raise ValueError(
                    f"{table.where(row)}: query_id {query_id} is {text!r}, but at {found.where[before]} "
                    f"it is {found.texts[before]!r}"
                )
            found.add(query_id, text, table.where(row), LOCALE, split)
    return _not_empty(found, "query", tables)


def collect_titles(tables: list[Table], corpus: str, dropped: Dropped) -> Texts:
    """The distinct titles of the US (`corpus` us) or of every locale (all), with whitespace runs made one space.

    Noted and left out are rows of other locales, rows without a title or a product_id, rows whose title an earlier
    product of the locale has, and rows that give a product another title than before.
    """
    found = Texts()
    first: dict[tuple[str, str], str] = {}  # (locale, title) -> product_id
    title_of: dict[tuple[str, str], str] = {}  # (locale, product_id) -> title
    for table, row, (number, title, locale) in _rows(tables, "product_id", "product_title", "product_locale"):
        product, text = as_id(number, table.where(row), "product_id"), " ".join((title or "").split())
        if corpus == LOCALE and locale != LOCALE:
            dropped.add(_elsewhere("title", locale), table.where(row), text)
            continue
        if locale is None or product is None or not text:
            missing = "no title" if not text else "no product_id" if product is None else "no product_locale"
            dropped.add(missing, table.where(row), text if text else product)
            continue
        before = title_of.setdefault((locale, product), text)
        if before != text:
            dropped.add("another title of the same product", table.where(row), text)
        elif (locale, text) not in first:
            first[locale, text] = product
            item = product if locale == LOCALE else f"{locale}:{product}"
            found.add(item, text, table.where(row), locale)
        elif first[locale, text] != product:
            dropped.add("title of an earlier product", table.where(row), text)
    return _not_empty(found, "title", tables)


def count_source(source: EsciSource) -> dict[str, Any]:
    """What the source holds in all locales, beside what was published for the whole of ESCI, and its US labels."""
    queries = {query for _, _, (query,) in _rows(source.queries, "query") if query}
    products = _products(source.titles)
    found = {"queries": len(queries), "products": len(products), "pairs": sum(map(len, source.pairs))}
    counts: dict[str, Any] = {key: {"found": found[key], "published": PUBLISHED[key]} for key in PUBLISHED}
    if source.pairs:
        counts["judged_products_without_row"] = len(_products(source.pairs) - products)
        counts["us_labels"] = count_labels(source.pairs)
    return counts


def _products(tables: list[Table]) -> set[tuple[str | None, str | None]]:
    """(locale, id) of every product of these tables."""
    return {
        (locale, as_id(number, table.where(row), "product_id"))
        for table, row, (locale, number) in _rows(tables, "product_locale", "product_id")
    }


def count_labels(tables: list[Table]) -> dict[str, int]:
    """How many US pairs have each label, spelled out. ValueError for a label that ESCI does not have."""
    spelled: dict[str | None, str] = {None: "none"}
    spelled.update(LABELS)
    spelled.update({name: name for name in LABELS.values()})
    counts: Counter[str] = Counter()
    for table, row, (label, locale) in _rows(tables, "esci_label", "product_locale"):
        if label not in spelled:
            raise ValueError(f"{table.where(row)}: esci_label {label!r} is none of {', '.join(map(str, spelled))}")
        counts[spelled[label]] += locale == LOCALE
    return {name: count for name, count in counts.items() if count}


def _rows(tables: list[Table], *names: str) -> Iterator[tuple[Table, int, tuple[Any, ...]]]:
    for table in tables:
        for row, cells in enumerate(zip(*map(table.column, names), strict=True)):
            yield table, row, cells


def _elsewhere(what: str, locale: str | None) -> str:
    return f"{what} of locale {locale}" if locale else f"{what} of no locale"


def _not_empty(texts: Texts, what: str, tables: list[Table]) -> Texts:
    """The texts. ValueError, which lists the locales that there are, where none is of the US."""
    if LOCALE in texts.locale:
        return texts
    locales = Counter(str(locale) for _, _, (locale,) in _rows(tables, "product_locale"))
    held = ", ".join(f"{locale} {count}" for locale, count in locales.most_common(5)) or "no rows"
    names = ", ".join(table.name for table in tables)
    raise ValueError(f"{names}: no {what} of product_locale {LOCALE!r} (found: {held})")
