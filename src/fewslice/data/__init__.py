"""Samples and their annotation, splits without leakage, patches, augmentation, normalisation."""
