"""Tables, figures and pages, drawn from records alone, never from a model."""
