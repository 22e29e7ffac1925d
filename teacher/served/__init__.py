"""Teachers behind an inference server: asked over HTTP, answers kept on disk."""
