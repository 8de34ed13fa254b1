"""How far the attributions can be trusted, measured by retraining."""
