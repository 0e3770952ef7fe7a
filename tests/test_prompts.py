"""stoical/prompts.py: Appendix B to the letter, a user's own template, and the shuffle of the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoical.data import Doc
from stoical.prompts import PromptTemplate, load_template, shuffled

# Appendix B.1 as the paper prints it: lines wrapped, underscores escaped.
B1 = r"""
You are a helpful assistant that can answer questions about WordNet. You are given a noun synset from WordNet and a
set of hypernyms for that synset. The hypernyms are separated by the delimiter '||'. Your task is to output the most
specific hypernym for the synset out of the given set of hypernyms.

Synset: deer.n.01

Hypernyms: object.n.01 || whole.n.02 || chordate.n.01
|| physical\_entity.n.01 || mammal.n.01 || ruminant.n.01
|| vertebrate.n.01 || placental.n.01 || ungulate.n.01 ||
even-toed\_ungulate.n.01 || animal.n.01 || entity.n.01 ||
living\_thing.n.01 || organism.n.01

Most specific hypernym:
"""
B1_DOCS = (
    "object.n.01 whole.n.02 chordate.n.01 physical_entity.n.01 mammal.n.01 ruminant.n.01 vertebrate.n.01 "
    "placental.n.01 ungulate.n.01 even-toed_ungulate.n.01 animal.n.01 entity.n.01 living_thing.n.01 organism.n.01"
).split()

# Appendix B.2, with the first, the tenth and the last of its fourteen products.
B2 = """
You are a helpful assistant that can answer questions about the ESCI shopping queries dataset. You are given a query
and a list of product titles for that query. Each product title is preceded by its docID in square brackets, and the
product titles are separated by the delimiter '||'. Your task is to generate the docID of the most relevant product
title to the query out of the given set of product titles and their docIDs.

Query: aukey usb c

Product titles: [25,36,39] Syntech USB C to USB Adapter, 2 Pack USB C to USB3 Adapter, USB Type C to USB, Thunderbolt 3
to USB Female Adapter OTG Cable || [36,25,31] USB C Cable, 2Pack 3ft 5ft || [25,36,45] AUKEY USB C Adapter, [3 Pack] USB
C to USB 3.0 Adapter Compatible with MacBook Pro 2017/2016, Google Chromebook Pixelbook, Samsung Galaxy S9 S8 S8+ Note8,
Google Pixel 2/2XL - Black

Most relevant product title:
"""
B2_DOCS = [
    Doc(
        "[25,36,39]",
        "Syntech USB C to USB Adapter, 2 Pack USB C to USB3 Adapter, USB Type C to USB, Thunderbolt 3 to USB Female "
        "Adapter OTG Cable",
    ),
    Doc("[36,25,31]", "USB C Cable, 2Pack 3ft 5ft"),
    Doc(
        "[25,36,45]",
        "AUKEY USB C Adapter, [3 Pack] USB C to USB 3.0 Adapter Compatible with MacBook Pro 2017/2016, Google "
        "Chromebook Pixelbook, Samsung Galaxy S9 S8 S8+ Note8, Google Pixel 2/2XL - Black",
    ),
]


def unwrapped(printed: str) -> str:
    """What the paper's page stands for: wrapped lines joined, `\\_` as `_`, a blank line between paragraphs."""
    paragraphs = printed.strip().replace(r"\_", "_").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_wordnet_prompt_is_appendix_b1_to_the_letter() -> None:
    rendered = load_template("wordnet").render("deer.n.01", [Doc(docid) for docid in B1_DOCS])
    assert rendered == unwrapped(B1)
    assert rendered.count("\n") == 6, "four paragraphs, a blank line between each two, no line after the last"


def test_the_esci_prompt_is_appendix_b2() -> None:
    assert load_template("esci").render("aukey usb c", B2_DOCS) == unwrapped(B2)


def test_the_compact_prompt_is_the_data_and_little_else() -> None:
    assert load_template("compact").render("deer", [Doc("ruminant"), Doc("mammal")]) == "ruminant | mammal ; deer :"


def test_documents_are_written_in_the_order_given() -> None:
    template = PromptTemplate(prompt="{query}: {docs}", doc="{docid}", delimiter=",")
    assert template.render("q", [Doc("b"), Doc("a"), Doc("c")]) == "q: b,a,c"


def test_a_users_template_comes_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", 'prompt: "{docs} ? {query} {{json}}"\ndoc: "<{docid}: {text}>"\ndelimiter: "\\n"')
    template = load_template(path)
    assert template.render("deer", [Doc("a", "x y"), Doc("b", "z")]) == "<a: x y>\n<b: z> ? deer {json}"


BAD_TEMPLATES = {
    "no docs in the prompt": ('prompt: "{query}"\ndoc: "{docid}"\ndelimiter: ","', "prompt holds {query}, but"),
    "no query": ('prompt: "{docs}"\ndoc: "{docid}"\ndelimiter: ","', "should hold {docs}, {query}"),
    "no docid": ('prompt: "{query}{docs}"\ndoc: "{text}"\ndelimiter: ","', "doc holds {text}, but"),
    "alien field": ('prompt: "{query}{docs}{rank}"\ndoc: "{docid}"\ndelimiter: ","', "prompt holds {docs}, {query}"),
    "text in the prompt": ('prompt: "{query}{docs}{text}"\ndoc: "{docid}"\ndelimiter: ","', "{text}"),
    "empty braces": ('prompt: "{query}{docs}{}"\ndoc: "{docid}"\ndelimiter: ","', "literal brace"),
    "open brace": ('prompt: "{query}{docs} {"\ndoc: "{docid}"\ndelimiter: ","', "write a literal brace as {{ or }}"),
    "format code": ('prompt: "{query:d}{docs}"\ndoc: "{docid}"\ndelimiter: ","', "format code 'd'"),
    "no delimiter": ('prompt: "{query}{docs}"\ndoc: "{docid}"', "delimiter"),
    "null prompt": ('prompt:\ndoc: "{docid}"\ndelimiter: ","', "a template has prompt, doc and delimiter"),
    "alien key": ('prompt: "{query}{docs}"\ndoc: "{docid}"\ndelimiter: ","\nsep: ","', "Key 'sep' not in"),
    "empty file": ("", "prompt"),
    "a list": ("- a\n- b", "a template has prompt, doc and delimiter"),
    "a word": ("hello", "a template has prompt, doc and delimiter"),
    "no YAML": ('prompt: "{query', "a template has prompt, doc and delimiter"),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_a_bad_template_is_told_with_its_file(case: str, tmp_path: Path) -> None:
    text, message = BAD_TEMPLATES[case]
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        load_template(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_template_that_is_not_text_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b'prompt: "\xff"')
    with pytest.raises(ValueError, match=r"mine\.yaml: 'utf-8' codec can't decode"):
        load_template(str(path))


def test_an_unknown_template_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt\.template=wordnt: no such file.* compact, esci, wordnet"):
        load_template("wordnt")
    with pytest.raises(ValueError, match="no such file"):
        load_template(str(tmp_path))


def test_a_document_without_the_text_that_the_template_writes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"query 'usb c': docID '\[2\]' has no text"):
        load_template("esci").render("usb c", [Doc("[1]", "Cable"), Doc("[2]")])


def test_text_is_left_out_where_the_template_does_not_write_it() -> None:
    assert load_template("compact").render("q", [Doc("a", "secret")]) == "a ; q :"


def test_braces_in_data_are_only_text() -> None:
    docs = [Doc("{docid}", "a {query} {0} {{x}}"), Doc("}{", "{")]
    rendered = load_template("esci").render("{docs} {", docs)
    assert "Query: {docs} {\n" in rendered
    assert "Product titles: {docid} a {query} {0} {{x}} || }{ {\n" in rendered


DOCS = [Doc(str(i)) for i in range(12)]


def test_the_shuffle_depends_on_seed_epoch_and_query_alone() -> None:
    before = list(DOCS)
    first = shuffled(DOCS, seed=3, epoch=1, query_id="q7")
    assert first == shuffled(DOCS, seed=3, epoch=1, query_id="q7")
    assert sorted(first, key=lambda doc: int(doc.docid)) == DOCS == before
    others = [
        shuffled(DOCS, seed=3, epoch=2, query_id="q7"),
        shuffled(DOCS, seed=4, epoch=1, query_id="q7"),
        shuffled(DOCS, seed=3, epoch=1, query_id="q8"),
    ]
    assert all(other != first for other in others)


def test_the_fields_of_the_shuffles_seed_do_not_run_together() -> None:
    assert shuffled(DOCS, seed=1, epoch=11, query_id="q") != shuffled(DOCS, seed=11, epoch=1, query_id="q")
    assert shuffled(DOCS, seed=0, epoch=1, query_id="2/q") != shuffled(DOCS, seed=0, epoch=12, query_id="q")


def test_every_document_comes_first_about_as_often() -> None:
    """With 600 queries and three documents, 200 each with a standard deviation of 11.5."""
    firsts = [shuffled(DOCS[:3], seed=0, epoch=0, query_id=f"q{i}")[0].docid for i in range(600)]
    assert all(150 < firsts.count(doc.docid) < 250 for doc in DOCS[:3])
