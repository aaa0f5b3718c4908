"""What is done with an encoder and data: probes, zero-shot, BAP and its controls."""
