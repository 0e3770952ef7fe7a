"""Conversations, lists of {"role": ..., "content": ...}, as a prompt and the answer to write after it.

The answer is the last message, the assistant's; what comes before it is the prompt. Where every conversation is a
user's message and its answer, the prompt is that message as it stands. Else each message is a line after its role:

    system: Be brief.
    user: Name a deer.
    assistant:
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .dropped import Dropped

ANSWER = "assistant"
SHAPE = '[{"role": "user", "content": "..."}, ..., {"role": "assistant", "content": "..."}]'


@dataclass(frozen=True)
class Chat:
    """What comes before the answer, (role, text) each; the answer; and where they stand."""

    before: tuple[tuple[str, str], ...]
    answer: str
    where: str

    def prompt(self, alone: bool) -> str:
        """What the model reads; alone: the one message as it stands, else all, each after its role."""
        if alone:
            return self.before[0][1]
        return "".join(f"{role}: {text}\n" for role, text in self.before) + f"{ANSWER}:"


def are_alone(chats: Iterable[Chat]) -> bool:
    """True where every conversation is a user's message and its answer."""
    return all([role for role, _ in chat.before] == ["user"] for chat in chats)


def read_chat(cell: Any, where: str, dropped: Dropped) -> Chat | None:
    """The conversation in a cell; None, which is noted, for one without an answer, or without text in a message.

    A cell of text, as in a .csv file, holds it as JSON. ValueError for anything but a list of messages.
    """
    messages = [_message(each, where) for each in _list(cell, where)]
    texts = [(role, text) for role, text in messages if text is not None]
    if len(texts) < len(messages):
        dropped.add("conversation with a message that is not text", where, messages[0][0])
    elif len(texts) < 2 or texts[-1][0] != ANSWER:
        last = texts[-1][0] if texts else "none"
        dropped.add(
            "conversation that does not end with an answer", where, f"{len(texts)} messages, the last by {last}"
        )
    else:
        return Chat(tuple(texts[:-1]), texts[-1][1], where)
    return None


def _list(cell: Any, where: str) -> list[Any]:
    if isinstance(cell, str):
        with suppress(ValueError, RecursionError):  # what is no JSON is told below
            cell = json.loads(cell)
    if cell is None or isinstance(cell, list):
        return cell or []
    raise ValueError(f"{where}: messages must be a list such as {SHAPE}, got {reprlib.repr(cell)}")


def _message(each: Any, where: str) -> tuple[str, str | None]:
    """Role and text; the text is None where there is none, or more than text, such as images or calls of tools."""
    role = each.get("role") if isinstance(each, dict) else None
    if not (isinstance(role, str) and role.strip()) or "content" not in each:
        raise ValueError(f"{where}: a message must be as in {SHAPE}, got {reprlib.repr(each)}")
    content = each["content"]
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        parts = [text for text in texts if isinstance(text, str)]
        content = "".join(parts) if len(parts) == len(content) else None
    return role.strip(), content if isinstance(content, str) else None
