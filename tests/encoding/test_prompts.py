"""stoical/prompts.py: Appendix B to the letter, a user's own template, and the shuffle of the documents."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stoical.data.rows import Doc
from stoical.encoding.prompts import TEMPLATES, Attempt, PromptTemplate, load_template, shuffled, template_yaml
from tests.support.appendix_b import B1, B1_DOCS, B2, B2_DOCS, unwrapped


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


def test_the_prompt_of_codes_has_docids_and_no_titles() -> None:
    docs = [Doc("[25,36,39]", "Syntech USB C to USB Adapter"), Doc("[36,25,31]", "USB C Cable")]
    assert load_template("codes").render("usb c", docs) == "[25,36,39] [36,25,31] ; usb c :"


def test_documents_are_written_in_the_order_given() -> None:
    template = PromptTemplate(prompt="{query}: {docs}", doc="{docid}", delimiter=",")
    assert template.render("q", [Doc("b"), Doc("a"), Doc("c")]) == "q: b,a,c"


def test_plain_is_the_query_alone() -> None:
    assert load_template("plain").render("Say it:\n{docs}", [Doc("the target", "its text")]) == "Say it:\n{docs}"


def test_a_template_without_documents_may_have_words_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", 'prompt: "Q: {query} A:"\ndoc: ""\ndelimiter: ""')
    assert load_template(path).render("why", [Doc("so")]) == "Q: why A:"


def test_a_users_template_comes_from_a_file(tmp_path: Path) -> None:
    text = 'prompt: "{docs} ? {query} {{json}}"\ndoc: "<{docid}: {text}>"\ndelimiter: "\\n"'
    template = load_template(write(tmp_path / "mine.yaml", text))
    assert template.render("deer", [Doc("a", "x y"), Doc("b", "z")]) == "<a: x y>\n<b: z> ? deer {json}"


BAD_TEMPLATES = {
    "no docs in the prompt": ('prompt: "{query}"\ndoc: "{docid}"\ndelimiter: ","', "prompt holds {query}, but"),
    "documents left out of it": ('prompt: "{query}{docs}"\ndoc: ""\ndelimiter: ""', "should hold {query}"),
    "no query": ('prompt: "{docs}"\ndoc: "{docid}"\ndelimiter: ","', "should hold {docs}, {query}"),
    "no docid": ('prompt: "{query}{docs}"\ndoc: "{text}"\ndelimiter: ","', "doc holds {text}, but"),
    "alien field": ('prompt: "{query}{docs}{rank}"\ndoc: "{docid}"\ndelimiter: ","', "prompt holds {docs}, {query}"),
    "text in the prompt": ('prompt: "{query}{docs}{text}"\ndoc: "{docid}"\ndelimiter: ","', "{text}"),
    "empty braces": ('prompt: "{query}{docs}{}"\ndoc: "{docid}"\ndelimiter: ","', "literal brace"),
    "open brace": ('prompt: "{query}{docs} {"\ndoc: "{docid}"\ndelimiter: ","', "write a literal brace as {{ or }}"),
    "cut docIDs": ('prompt: "{query}{docs}"\ndoc: "{docid:.1}"\ndelimiter: ","', "doc holds {docid:.1}: leave out"),
    "a wide field": ('prompt: "{query:>99999999999}{docs}"\ndoc: "{docid}"\ndelimiter: ","', "{query:>99999999999}"),
    "a code in a code": ('prompt: "{query:{docs}}{docs}"\ndoc: "{docid}"\ndelimiter: ","', "{query:{docs}}"),
    "conversion": ('prompt: "{query}{docs}"\ndoc: "{docid!r}"\ndelimiter: ","', "leave out the conversion 'r'"),
    "attribute": ('prompt: "{query}{docs}"\ndoc: "{docid.upper}"\ndelimiter: ","', "doc holds {docid.upper}, but"),
    "index": ('prompt: "{query[0]}{docs}"\ndoc: "{docid}"\ndelimiter: ","', "prompt holds {docs}, {query[0]}, but"),
    "a code in a correction": (
        'prompt: "{query}{docs}"\ndoc: "{docid}"\ndelimiter: ","\ncorrection: "{prompt:.9}{previous}"',
        "correction holds {prompt:.9}: leave out",
    ),
    "key given twice": (
        'prompt: "{query}{docs}"\ndoc: "{docid}"\ndelimiter: ","\ndoc: "{docid}"',
        "doc is given twice",
    ),
    "a list for a text": (
        'prompt: ["{query}{docs}"]\ndoc: "{docid}"\ndelimiter: ","',
        "prompt must be text, got a list",
    ),
    "no end of brackets": ("prompt: " + "[" * 20_000, "a template has prompt, doc and delimiter"),
    "half a pair": (
        'prompt: "{query}{docs}\\ud800"\ndoc: "{docid}"\ndelimiter: ","',
        "prompt holds half of a surrogate pair",
    ),
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
    with pytest.raises(ValueError, match=r"prompt\.template=wordnt: no such file.* compact, esci, plain, wordnet"):
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


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_template_can_ask_for_a_correction(path: Path) -> None:
    template = load_template(path.stem)
    prompt = template.render("deer", [Doc("mammal", "x")])
    asked = template.render("deer", [Doc("mammal", "x")], Attempt("{ba}"))
    assert asked.startswith(f"{prompt} {{ba}}"), "braces in an answer are text"
    shown = template.render("deer", [Doc("mammal", "x")], Attempt("{ba}", "ruminant"))
    assert shown.startswith(f"{prompt} {{ba}}") and "ruminant" in shown


def test_a_template_without_the_wording_says_so(tmp_path: Path) -> None:
    text = 'prompt: "{docs} ? {query}"\ndoc: "{docid}"\ndelimiter: ","\n'
    template = load_template(write(tmp_path / "mine.yaml", text))
    with pytest.raises(ValueError, match="the prompt template has no correction; write one, as") as caught:
        template.render("deer", [Doc("a")], Attempt("b"))
    shown = str(caught.value).partition("write one, as ")[2].removesuffix(" does")
    assert "correction" in Path(shown).read_text(encoding="utf-8"), "what the message points at is there"
    with pytest.raises(ValueError, match="has no correction_with_reference"):
        template.render("deer", [Doc("a")], Attempt("b", "a"))
    alien = write(tmp_path / "alien.yaml", text + 'correction: "{prompt} {reference}"\n')
    with pytest.raises(ValueError, match=r"correction holds {prompt}, {reference}, but should hold {previous}"):
        load_template(alien)


def test_wordings_that_a_run_does_not_use_are_no_part_of_it() -> None:
    """Resuming compares templates: older checkpoints' have no wording for attempts."""
    template = load_template("compact")
    assert repr(template) == repr(PromptTemplate(template.prompt, template.doc, template.delimiter))


def test_what_other_libraries_expand_stays_as_it_is_written(tmp_path: Path) -> None:
    text = "prompt: 'costs ${query}, ${{oc.env:HOME}} {docs}'\ndoc: '{docid}'\ndelimiter: '${oc.env:HOME} ${'"
    template = load_template(write(tmp_path / "mine.yaml", text))
    rendered = template.render("5", [Doc("a"), Doc("b")])
    assert rendered == "costs $5, ${oc.env:HOME} a${oc.env:HOME} ${b"
    assert load_template(write(tmp_path / "again.yaml", template_yaml(template))) == template
    with pytest.raises(ValueError, match=r"prompt holds \{oc.env:HOME\}: .* write a literal brace as"):
        load_template(write(tmp_path / "mine.yaml", text.replace("{{oc.env:HOME}}", "{oc.env:HOME}")))


def test_texts_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    template = load_template(write(tmp_path / "mine.yaml", 'prompt: "{query}{docs}"\ndoc: "{docid}"\ndelimiter: 0x10'))
    assert template.render("q", [Doc("a"), Doc("b")]) == "qa0x10b"
    for delimiter in ("no", "1:30", "1e3"):
        path = write(tmp_path / "mine.yaml", f'prompt: "{{query}}{{docs}}"\ndoc: "{{docid}}"\ndelimiter: {delimiter}')
        assert load_template(path).delimiter == delimiter
        again = write(tmp_path / "again.yaml", template_yaml(load_template(path)))
        assert load_template(again) == load_template(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_template_with_a_mark_and_crlf(zipped: bool, tmp_path: Path) -> None:
    text = 'prompt: |-\n  Q: {query}\n  {docs}\ndoc: "{docid}"\ndelimiter: "\\n"\n'
    dressed = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    (tmp_path / "mine.yaml").write_bytes(gzip.compress(dressed) if zipped else dressed)
    assert load_template(str(tmp_path / "mine.yaml")) == PromptTemplate("Q: {query}\n{docs}", "{docid}", "\n")


def test_a_template_of_a_program_is_checked_too() -> None:
    with pytest.raises(ValueError, match=r"doc holds \{docid:.1\}: leave out the format code '.1'"):
        PromptTemplate("{query}{docs}", "{docid:.1}", ",")
