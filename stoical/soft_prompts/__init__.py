"""Soft prompts that make a frozen language model write a given text: training, decoding, plain peft checkpoints."""
