"""Review of captions in a browser: edits, their export, and the server of the page."""
