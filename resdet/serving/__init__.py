"""A trained model behind HTTP: `resdet serve`."""
