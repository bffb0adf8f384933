"""The rules FAD101 to FAD606: catalogue, findings and their pages."""
