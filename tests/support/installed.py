"""Names that depend on the versions that are installed."""

from __future__ import annotations

import dataclasses

from transformers import TrainingArguments

NEW_NAME = "activation_checkpointing"  # transformers 5.23; 5.21, the oldest supported, has the old one alone
CHECKPOINTING = (
    NEW_NAME if NEW_NAME in {f.name for f in dataclasses.fields(TrainingArguments)} else "gradient_checkpointing"
)
