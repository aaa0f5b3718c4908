"""Background-invariant anchor pre-training (BAP): anchors, alignment, controls."""
