"""RaVL's controlled settings: models that learned a spurious correlation that is known."""
