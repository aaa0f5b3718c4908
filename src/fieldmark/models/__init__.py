"""Encoders behind one contract, prompts, cached embedding and checkpoints."""
