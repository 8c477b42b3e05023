"""Executable theory of parameter-efficient fine-tuning."""
