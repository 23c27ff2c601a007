"""★ Segmenters: what a model wrote becomes instances."""
