"""What leaves fieldmark: models for the hub, figures and predictions for other tools."""
