"""Prompts: Appendix B's two, two compact ones for small models, one of the query alone, and the user's own file."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from string import Formatter
from typing import TypeVar

import yaml

from stoical.common.fields import alike
from stoical.common.text_files import whole_text
from stoical.data.rows import Doc

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_FILE = "template.yaml"  # the one that a checkpoint was trained with
NULL = "tag:yaml.org,2002:null"
T = TypeVar("T")
CORRECTIONS = {
    "correction": {"prompt", "previous"},
    "correction_with_reference": {"prompt", "previous", "reference"},
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer that was given before, which the prompt asks to correct; with `reference`, beside the right one."""

    previous: str
    reference: str | None = None


@dataclass
class PromptTemplate:
    """`prompt` holds {query} and {docs}; each document is written as `doc` ({docid}, {text}), joined by `delimiter`.

    Where `doc` is empty the prompt shows no documents, and holds {query} alone.

    Optional, for self-correction: `correction` holds {prompt}, all of the above, and {previous}, an answer to it;
    `correction_with_reference` holds {reference} as well.
    """

    prompt: str
    doc: str
    delimiter: str
    correction: str | None = field(default=None, repr=False)  # no part of what a run without attempts depends on
    correction_with_reference: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise `ValueError` for a field that is not one of these, is missing, or is more than its name in braces."""
        in_prompt = {"query", "docs"} if self.doc else {"query"}
        _check_fields("prompt", self.prompt, required=in_prompt, allowed=in_prompt)
        _check_fields("doc", self.doc, required={"docid"} if self.doc else set(), allowed={"docid", "text"})
        for key, wanted in CORRECTIONS.items():
            if getattr(self, key) is not None:
                _check_fields(key, getattr(self, key), required=wanted, allowed=wanted)

    def render(self, query: str, docs: Sequence[Doc], attempt: Attempt | None = None) -> str:
        """The prompt with the documents in the order given, and the attempt to correct, if any.

        Raises `ValueError` where a document lacks its text, or the template its wording for an attempt.
        """
        wants_text = "text" in _fields(self.doc)
        for doc in docs:
            if wants_text and doc.text is None:
                raise ValueError(f"query {query!r}: docID {doc.docid!r} has no text, which the prompt template writes")
        written = [self.doc.format(docid=doc.docid, text=doc.text) for doc in docs]
        prompt = self.prompt.format(query=query, docs=self.delimiter.join(written))
        return prompt if attempt is None else self._correction(prompt, attempt)

    def _correction(self, prompt: str, attempt: Attempt) -> str:
        key = "correction" if attempt.reference is None else "correction_with_reference"
        wording: str | None = getattr(self, key)
        if wording is None:
            raise ValueError(f"the prompt template has no {key}; write one, as {TEMPLATES / 'wordnet.yaml'} does")
        return wording.format(prompt=prompt, previous=attempt.previous, reference=attempt.reference)


def load_template(name: str) -> PromptTemplate:
    """A template by name, of those in `templates`, or by the path of a YAML file with prompt, doc and delimiter.

    Raises `ValueError` naming the file and what is missing from it or unknown in it.
    """
    known = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))
    path = TEMPLATES / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise ValueError(f"prompt.template={name}: no such file, and not one of {', '.join(known)}")
    text = whole_text(path)
    try:
        return PromptTemplate(**_texts(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def template_yaml(template: PromptTemplate) -> str:
    """The template as a file that `load_template` reads."""
    return yaml.safe_dump(asdict(template), allow_unicode=True, sort_keys=False)


def _texts(text: str) -> dict[str, str]:
    """The keys of a template in YAML with their texts, each as it stands: `5`, `no` and `${x}` are text.

    Raises `ValueError` for what is not a mapping to texts, for keys that are missing, unknown or given twice.
    """
    wants = "(a template has prompt, doc and delimiter)"
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{' '.join(str(error).split())} {wants}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"not a mapping of keys to texts {wants}")
    known = {each.name: each.default is not MISSING for each in fields(PromptTemplate)}
    found: dict[str, str] = {}
    for key, value in node.value:
        name = str(key.value)
        if name not in known:
            raise ValueError(f"Key {name!r} not in a template{_meant(name, known)} {wants}")
        if name in found:
            raise ValueError(f"{name} is given twice; give it once")
        if not (known[name] and value.tag == NULL):
            found[name] = _text(name, value)
    missing = [name for name, optional in known.items() if not optional and name not in found]
    if missing:
        raise ValueError(f"{missing[0]} is missing {wants}")
    return found


def _meant(name: str, known: Iterable[str]) -> str:
    close = alike(name, known)
    return f"; did you mean {close!r}?" if close else ""


def _text(name: str, value: yaml.Node) -> str:
    if not isinstance(value, yaml.ScalarNode) or value.tag == NULL:
        found = "nothing" if value.tag == NULL else "a list or a mapping"
        raise ValueError(f"{name} must be text, got {found} (a template has prompt, doc and delimiter)")
    text = str(value.value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half of a surrogate pair: {error}") from None
    return text


def shuffled(docs: Sequence[T], seed: int, epoch: int, query_id: str) -> list[T]:
    """The documents in a random order that depends on these three values alone (section 5.1: an unordered set)."""
    order = list(docs)
    random.Random(f"{seed}/{epoch}/{query_id}").shuffle(order)
    return order


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _check_fields(key: str, text: str, required: set[str], allowed: set[str]) -> None:
    """Raise `ValueError` for fields other than these, and for a field that is more than its name in braces."""
    literal = "; write a literal brace as {{ or }}"
    try:
        parsed = [(name, code, conversion) for _, name, code, conversion in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{key}: {error}{literal}") from None
    for name, code, conversion in parsed:
        written = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{code}' if code else ''}}}"
        if code or conversion:
            what = f"the format code {code!r}" if code else f"the conversion {conversion!r}"
            raise ValueError(
                f"{key} holds {written}: leave out {what}, as texts are written whole and as they are{literal}"
            )
    found = {name for name, _, _ in parsed}
    if found - allowed or required - found:
        wanted = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        there = ", ".join(f"{{{name}}}" for name in sorted(found)) or "none"
        raise ValueError(f"{key} holds {there}, but should hold {wanted}{literal}")
