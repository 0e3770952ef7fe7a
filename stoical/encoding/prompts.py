"""Prompts: Appendix B's two, two compact ones for small models, one of the query alone, and the user's own file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stoical.data.rows import Doc

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_FILE = "template.yaml"  # the one that a checkpoint was trained with
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
        shown = attempt.reference is not None
        key, wording = "correction", self.correction
        if shown:
            key, wording = "correction_with_reference", self.correction_with_reference
        if wording is None:
            raise ValueError(f"the prompt template has no {key}; write one, as stoical/templates/wordnet.yaml does")
        return wording.format(prompt=prompt, previous=attempt.previous, reference=attempt.reference)


def load_template(name: str) -> PromptTemplate:
    """A template by name, of those in `templates`, or by the path of a YAML file with prompt, doc and delimiter.

    Raises `ValueError` naming the file and what is missing from it or unknown in it.
    """
    known = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))
    path = TEMPLATES / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise ValueError(f"prompt.template={name}: no such file, and not one of {', '.join(known)}")
    try:
        template = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PromptTemplate), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError, OSError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]} (a template has prompt, doc and delimiter)") from error
    assert isinstance(template, PromptTemplate)
    try:
        fields = {"query", "docs"} if template.doc else {"query"}
        _check_fields("prompt", template.prompt, required=fields, allowed=fields)
        _check_fields("doc", template.doc, required={"docid"} if template.doc else set(), allowed={"docid", "text"})
        _check_corrections(template)
        template.render("query", [Doc("docid", "text")])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; write a literal brace as {{{{ or }}}}") from error
    return template


def _check_corrections(template: PromptTemplate) -> None:
    for key, fields in CORRECTIONS.items():
        wording = getattr(template, key)
        if wording is not None:
            _check_fields(key, wording, required=fields, allowed=fields)
            wording.format(prompt="prompt", previous="answer", reference="answer")


def shuffled(docs: Sequence[Doc], seed: int, epoch: int, query_id: str) -> list[Doc]:
    """The documents in a random order that depends on these three values alone (section 5.1: an unordered set)."""
    order = list(docs)
    random.Random(f"{seed}/{epoch}/{query_id}").shuffle(order)
    return order


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _check_fields(key: str, text: str, required: set[str], allowed: set[str]) -> None:
    fields = _fields(text)
    if fields - allowed or required - fields:
        wanted = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        found = ", ".join(f"{{{name}}}" for name in sorted(fields)) or "none"
        raise ValueError(f"{key} holds {found}, but should hold {wanted}")
